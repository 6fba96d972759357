"""Whole range tests, as the command line runs them: how long they take and where, and whether they give the same bytes."""

from __future__ import annotations

import contextlib
import cProfile
import hashlib
import io
import json
import os
import pstats
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clrtool.cli.main import main
from tests.gpu.results import Results
from tests.gpu.wheels import ROOT

# A test whose seeds are one team, and its epochs: long enough to be interrupted in it.
TEAM = ("sweep.method=paper", "--seeds", "3", "--deterministic")
EPOCHS, DRY_EPOCHS = 120, 12
# What a test ends with that SIGTERM has stopped.
STOPPED = 143
# It ran, and recommends bounds or says that there are none.
ENDED = (0, 3)
# Where `make paper` leaves the images.
COPY = ROOT / "runs" / "paper" / "cifar10.npz"
# What is told of a run that finishes with a hash: the rest is drawn from it.
KEPT = ("config.yaml", "curve.csv", "result.json")


def digits(results: Results, device: str) -> None:
    """The wall-clock time of the command, and what its result says of it."""
    for method in ("auto", "paper"):
        with tempfile.TemporaryDirectory() as folder:
            code, seconds, record = _command("digits", f"sweep.method={method}", "--device", device, "-o", folder)
        results.add("range test", config="digits", method=method, code=code, seconds=seconds, **_facts(record))


def cifar10(results: Results, device: str) -> None:
    """A ResNet on CIFAR-10, or on made-up images of the same size where it is not there."""
    with tempfile.TemporaryDirectory() as folder:
        images = COPY if COPY.exists() and device != "cpu" else _made_up(Path(folder), *_sizes(device))
        words = ["data.name=npz", f"data.args={{path: {images}}}", "plan.epochs=20"]
        words += ["model.args={depth: 8, width: 4}", "data.batch_size=16"] if device == "cpu" else []
        run = ["cifar10", *words, "--device", device, "-o", f"{folder}/run"]
        code, seconds, record = _command(*run)
    data = "a copy of CIFAR-10" if images == COPY else "made-up images, as many and as large as those of CIFAR-10"
    if device == "cpu":
        data = f"{_sizes(device)[0]} made-up images"
    results.add("range test", config="cifar10", data=data, code=code, seconds=seconds, **_facts(record))


def _sizes(device: str) -> tuple[int, int]:
    return (640, 200) if device == "cpu" else (50_000, 10_000)


def _made_up(folder: Path, train: int, heldout: int) -> Path:
    """Images of ten kinds, each a pattern of its own under noise."""
    generator, path = np.random.default_rng(0), folder / "images.npz"
    patterns = generator.integers(64, 192, (10, 32, 32, 3))
    arrays = {}
    for name, size in (("train", train), ("test", heldout)):
        labels = generator.integers(0, 10, size)
        noise = generator.integers(-64, 64, (size, 32, 32, 3))
        arrays |= {f"x_{name}": (patterns[labels] + noise).astype(np.uint8), f"y_{name}": labels}
    np.savez(path, **arrays)
    return path


def _command(*words: str) -> tuple[int, float, Mapping[str, Any]]:
    """The exit code, wall-clock seconds and result of ``clrtool rangetest``."""
    begin = time.perf_counter()
    done = subprocess.run(_words(*words, "--json"), capture_output=True, text=True, check=False)
    seconds = round(time.perf_counter() - begin, 2)
    if done.returncode not in ENDED:
        raise SystemExit(f"rangetest {' '.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.returncode, seconds, json.loads(done.stdout)


def _words(*words: str) -> list[str]:
    return [sys.executable, "-m", "clrtool", "rangetest", *words, "-q"]


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """Of a result: bounds, engine, and every number of seconds and iterations that it has."""
    wanted = ("base_lr", "max_lr", "engine", "iterations", "verdict")
    found = {}
    for part in (record, *(value for value in record.values() if isinstance(value, dict))):
        found |= {name: value for name, value in part.items() if name in wanted or name.endswith("seconds")}
    return {f"of_result_{name}" if name == "seconds" else name: value for name, value in found.items()}


def parts(results: Results, device: str) -> None:
    """Where a range test spends its time: the functions of clrtool with the most, those that they call included."""
    for turn in ("first",) if device == "cpu" else ("first", "second"):  # the first chooses kernels and loads code
        profile, said = cProfile.Profile(), io.StringIO()
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(said):
            begin = time.perf_counter()
            with contextlib.suppress(SystemExit):
                profile.runcall(main, ["rangetest", "digits", "-q", "--device", device, "-o", folder])
            seconds = round(time.perf_counter() - begin, 2)
        rows: Any = pstats.Stats(profile).stats  # type: ignore[attr-defined]
        ours = {place: row for place, row in rows.items() if f"{os.sep}clrtool{os.sep}" in place[0]}
        most = sorted(ours, key=lambda place: -ours[place][3])[:40]
        table = [[_place(place), ours[place][1], round(ours[place][3], 3)] for place in most]
        results.add("parts", turn=turn, seconds=seconds, columns=["function", "calls", "seconds"], functions=table)


def _place(place: tuple[str, int, str]) -> str:
    return f"{place[0].rpartition(f'{os.sep}clrtool{os.sep}')[2]}:{place[2]}"


def same_bytes(results: Results, device: str) -> None:
    """``--deterministic`` twice, and once interrupted and resumed: the hashes of what each has written."""
    epochs = DRY_EPOCHS if device == "cpu" else EPOCHS
    words = _words("digits", *TEAM, f"sweep.epochs={epochs}", "--device", device)
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / name / "run" for name in ("first", "second", "resumed")]
        training = max(_stopped(words, place, None)[1] for place in places[:2])
        codes = [_stopped(words, places[2], share * training)[0] for share in (0.3, 0.2)]
        codes.append(_stopped(words, places[2], None)[0])
        first, second, resumed = map(_hashes, places)
    same = {name: first[name] == second[name] == resumed[name] for name in KEPT}
    results.add("same bytes", same=same, first=first, second=second, resumed=resumed, codes=codes)
    if not all(same.values()) or codes[0] != STOPPED:
        raise SystemExit(f"not the same bytes, or never interrupted: {same}, {codes}")


def _stopped(words: Sequence[str], place: Path, seconds: float | None) -> tuple[int, float]:
    """The exit code of a command that a signal stops so long after its folder was there, and its seconds from then on."""
    with subprocess.Popen([*words, "-o", str(place)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        while child.poll() is None and not (place / "config.yaml").exists():
            time.sleep(0.02)
        begin = time.perf_counter()
        if seconds is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(seconds)
            child.send_signal(signal.SIGTERM)
        return child.wait(), time.perf_counter() - begin


def _hashes(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()[:16] for name in KEPT}
