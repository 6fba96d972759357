"""The network of the paper on CIFAR-10: trained under a plan, and range-tested by the command line.

All that is finished is kept in runs/paper, or runs/paper-original, and what is interrupted goes on.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clrtool.config.file import find_config, load_config
from clrtool.config.schema import RangeTestConfig
from clrtool.core.planning.plan import Plan
from clrtool.core.results.record import RunRecord
from clrtool.engine.configured.build import build_workload
from clrtool.engine.rangetest.compare import compare
from clrtool.engine.resume.checkpoint import CheckpointFolder
from clrtool.engine.resume.journal import EVERY, NoRequests
from clrtool.engine.resume.open import open_journal
from clrtool.files import write_whole
from clrtool.report.records.run import read_run

ROOT = Path(__file__).resolve().parents[3]
ORIGINAL = os.environ.get("CIFAR10")
# A folder for each data, so that what was measured on the one is never taken for the other's.
WORK = ROOT / "runs" / ("paper-original" if ORIGINAL else "paper")
COPY = ROOT.parent / "shared" / "data" / "unpack_cifar10.py"
# Of the JPEG copy; the second compression has the same.
QUALITY = 75
# The code that the configs name.
FACTORIES = "caffe_factories:*"


@dataclass(frozen=True)
class Run:
    """One training: a plan that is followed for so many iterations.

    Args:
        name: of the files that hold it.
        words: values over those of configs/cifar10-full.yaml, as on the command line.
        data: ``cifar10``, or ``again``: the images compressed once more.
    """

    name: str
    plan: Plan
    iterations: int
    words: tuple[str, ...] = ()
    data: str = "cifar10"
    config: str = "cifar10-full"

    @property
    def settings(self) -> RangeTestConfig:
        """Its config; a number of evaluations that is given lets each be on all 10,000 images."""
        return load_config(find_config(self.config), [*data_words(self.data), "sweep.evaluations=20", *self.words])

    @property
    def sha256(self) -> str:
        """Hash of all that it follows from but the seed."""
        asked = {"config": self.settings.sha256(), "plan": self.plan.to_dict(), "iterations": self.iterations}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    def file(self, seed: int) -> Path:
        return WORK / f"{self.name}-{seed}.json"


def data_words(data: str = "cifar10") -> list[str]:
    """Where the images are, as on the command line."""
    return ["data.name=npz", f"data.args={{path: {WORK.relative_to(ROOT)}/{data}.npz}}"]


def make_data() -> str:
    """Make the arrays that are missing, in a fixed order drawn once; which CIFAR-10 it is, none if there is none.

    The JPEG copy is sorted by class. Caffe's order is that of the original files, which mix the classes; any fixed
    order that does so stands for it.
    """
    if not ORIGINAL and not COPY.exists():
        return ""
    arrays = WORK / "cifar10.npz"
    if not arrays.exists():
        images = dict(_original(ORIGINAL) if ORIGINAL else _jpeg_copy())
        order = np.random.default_rng(0).permutation(len(images["x_train"]))
        for name in ("x_train", "y_train"):
            images[name] = images[name][order]
        np.savez(arrays, **images)
    if not (WORK / "again.npz").exists():
        with np.load(arrays) as images:
            again = {name: _compressed(images[name]) if name.startswith("x") else images[name] for name in images}
        np.savez(WORK / "again.npz", **again)
    return "the original pixels" if ORIGINAL else f"a copy in JPEG of quality {QUALITY}"


def _jpeg_copy() -> dict[str, np.ndarray[Any, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, str(COPY), folder], check=True, capture_output=True)
        with np.load(Path(folder) / "cifar10.npz") as arrays:
            return dict(arrays)


def _original(root: str) -> dict[str, np.ndarray[Any, Any]]:
    from torchvision.datasets import CIFAR10

    found = {}
    for name, train in (("train", True), ("test", False)):
        dataset = CIFAR10(root, train=train)
        found[f"x_{name}"], found[f"y_{name}"] = dataset.data, np.asarray(dataset.targets, dtype=np.uint8)
    return found


def _compressed(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    from PIL import Image

    def again(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=QUALITY)
        return np.asarray(Image.open(file))

    return np.stack([again(image) for image in images])


def known(run: Run, seed: int) -> dict[str, Any] | None:
    """What was measured: ``points`` of (iteration, accuracy), and seconds; None if it was not, or of another run."""
    file = run.file(seed)
    values = json.loads(file.read_text()) if file.exists() else {}
    return values if values.get("request") == run.sha256 else None


def train(run: Run, seeds: Sequence[int]) -> None:
    """Train what is not known, with as many threads as the process has, and keep it."""
    seeds = [seed for seed in seeds if known(run, seed) is None]
    if not seeds:
        return
    workload = build_workload(run.settings, folder=find_config(run.config).parent, allow_import=[FACTORIES])
    place = WORK / f"{run.name}-{'-'.join(map(str, seeds))}-checkpoint"
    folder = CheckpointFolder(place)
    journal, _ = open_journal(folder, workload, run.sha256, NoRequests(), EVERY)
    (found,) = compare(workload, {run.name: run.plan}, run.iterations, seeds, journal=journal)
    for training in found.trainings:
        points = [(point.iteration, point.metric) for point in training.points]
        values = {"request": run.sha256, "points": points, "seconds": training.seconds, "engine": found.engine}
        values |= {"threads": torch.get_num_threads(), "device": str(workload.device)}
        write_whole(run.file(training.seed), json.dumps(values, indent=1))
    for file in place.glob("*"):
        file.unlink()
    place.rmdir()


def range_test(name: str, words: Sequence[str], config: str = "cifar10-full") -> RunRecord:
    """``clrtool rangetest`` as a user types it, into runs/paper; a finished one is read again."""
    command = [sys.executable, "-m", "clrtool", "rangetest", config, *data_words(), "sweep.method=paper", *words, "-q"]
    command += ["--allow-import", FACTORIES, "-o", str(WORK / name)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    return read_run(WORK / name)
