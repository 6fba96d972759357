"""Checkpoints on disk: two generations, each whole or not there, which are loaded without running code."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from clrtool.engine.machine import peak_memory
from clrtool.engine.problem import Problem, environment
from clrtool.engine.stages import FORMAT, Requests, Stages
from clrtool.errors import ConfigError, MachineError
from clrtool.files import read_bytes, write_whole
from clrtool.words import count

GENERATIONS = 2
# 'number-hash.pt': the newest is known by its number, and whether it is whole by its hash. No list of them can be torn.
_NAME = re.compile(r"(\d{8})-([0-9a-f]{64})\.pt")
_MOST_BYTES = 2**44


class Found(NamedTuple):
    """The values of the newest checkpoint that is whole, None if there is none, and those that are damaged."""

    values: dict[str, Any] | None
    damaged: tuple[Path, ...]


class CheckpointFolder:
    """A folder of checkpoints.

    Args:
        folder: made when the first is saved.

    Raises:
        MachineError: the folder is a link, which could lead anywhere, or no folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._damaged: tuple[Path, ...] = ()
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise MachineError(f"{folder}: is there already and is no plain folder")

    def save(self, values: Mapping[str, Any]) -> None:
        """Write one more generation, and remove the oldest. Raises MachineError if the disk is full."""
        content = io.BytesIO()
        torch.save(dict(values), content)
        files = self._files()
        number = int(files[0].name[:8]) + 1 if files else 1
        name = f"{number:08d}-{hashlib.sha256(content.getbuffer()).hexdigest()}.pt"
        write_whole(self.folder / name, content.getvalue())
        whole = [file for file in files if file not in self._damaged]
        for old in whole[GENERATIONS - 1 :]:
            with contextlib.suppress(OSError):
                old.unlink()

    def load(self) -> Found:
        """The newest checkpoint whose hash is that of its content."""
        self._damaged = ()
        for file in self._files():
            values = _values(file)
            if values is not None:
                return Found(values, self._damaged)
            self._damaged += (file,)
        return Found(None, self._damaged)

    def _files(self) -> list[Path]:
        """The checkpoints, newest first."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted((file for file in found if _NAME.fullmatch(file.name)), reverse=True)


def _values(file: Path) -> dict[str, Any] | None:
    match = _NAME.fullmatch(file.name)
    try:
        content = read_bytes(file, _MOST_BYTES)
        if match is None or hashlib.sha256(content).hexdigest() != match[2]:
            return None
        values = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except MemoryError as error:
        raise MachineError(f"{file}: out of memory, {peak_memory()}") from error
    except Exception:  # noqa: BLE001 (what a file of an unknown origin makes of the loader: it is damaged)
        return None
    return values if isinstance(values, dict) else None


def open_stages(
    folder: CheckpointFolder, problem: Problem, config_sha256: str, requests: Requests, every: float
) -> tuple[Stages, str]:
    """The stages of a range test, those of the checkpoint if the folder holds one; and what to say of that.

    Args:
        requests: what signals ask for.
        every: seconds between two checkpoints.

    Raises:
        ConfigError: the checkpoint is of another run than this one would be.
    """
    about: dict[str, Any] = {
        "config_sha256": config_sha256,
        "data_sha256": problem.data_sha256,
        "sources": dict(problem.sources),
        "deterministic": problem.deterministic,
        "device": problem.device.type,
        "micro_batches": problem.training.micro_batches,
        "environment": dict(environment(problem.device)),
    }
    values, damaged = folder.load()
    said = [f"{file.name[:8]} is damaged" for file in damaged]
    if values is None:
        said += ["starting over"] if damaged else []
    else:
        _check(values, about, folder.folder.parent)
        values["warnings"] = (*values["warnings"], *_moved(values["environment"], about["environment"]))
        said += [_resumed(values)]
    text = f"{folder.folder}: {'; '.join(said)}" if said else ""
    return Stages(folder, requests, every, about, values), text


def saved_parts(folder: CheckpointFolder) -> int | None:
    """The micro-batches that an interrupted test had come to where memory was short; None if there is no checkpoint."""
    values = folder.load().values
    return None if values is None else int(values.get("micro_batches", 1))


def _check(saved: Mapping[str, Any], about: Mapping[str, Any], run: Path) -> None:
    """Raise ConfigError if a checkpoint is of another run."""
    switch = "without" if about["deterministic"] else "with"
    differs = {
        "format": f"{run} holds a checkpoint of another version of clrtool",
        "config_sha256": f"{run} was begun with another config",
        "data_sha256": f"{run} was begun on other data than there is now",
        "sources": f"{run} was begun with other code or weights than there are now ({_others(saved, about)})",
        "deterministic": f"{run} was begun {switch} --deterministic",
        "device": f"{run} was begun on {saved.get('device')}, and this is {about['device']}",
    }
    now = {**about, "format": FORMAT}
    for name, what in differs.items():
        if saved.get(name) != now[name]:
            raise ConfigError(
                f"{what}: go on as it was begun, run it anew with --fresh, or give another folder with -o"
            )


def _others(saved: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """The names of the sources that have changed."""
    before, now = saved.get("sources") or {}, about["sources"]
    return ", ".join(name for name in sorted({*before, *now}) if before.get(name) != now.get(name))


def _moved(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What to say of a test that goes on in another environment."""
    changed = [f"{name} was {before.get(name)} and is {now[name]}" for name in now if before.get(name) != now[name]]
    return [f"Interrupted and resumed where {'; '.join(changed)}: equal up to rounding."] if changed else []


def _resumed(values: Mapping[str, Any]) -> str:
    running, finished = values["running"], count(len(values["finished"]), "stage")
    if not running:
        return f"resumed with {finished} finished"
    name, iteration = running["name"].partition(" from ")[0], running["start"] + max(map(len, running["losses"]))
    return f"resumed with {finished} finished; {name} goes on after iteration {iteration:,}"
