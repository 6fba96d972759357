"""Shards: which seeds a process trains, the range that all of them sweep, and the union of what they measured."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clrtool.core.results.shard import Shard, have
from clrtool.engine.resume.checkpoint import CheckpointFolder
from clrtool.engine.resume.journal import Assignment, RemoteResults, added_up
from clrtool.engine.resume.open import differences, moved
from clrtool.engine.resume.shape import checked_scout, load_checkpoint
from clrtool.errors import ConfigError, as_config_error
from clrtool.files import read_text, write_whole

# What every process has to have in common with the others; the device and where they run are asked for apart.
COMMON = ("format", "config_sha256", "data_sha256", "sources", "deterministic", "micro_batches")


def shard_assignment(shards: Sequence[Shard], first: int, agreed: AgreedScout) -> Assignment:
    """The seeds of a shard, or of a shard of a shard.

    Args:
        first: the first seed of the test.
        agreed: the file in which the first scout that is finished becomes that of all.
    """
    return Assignment(lambda seeds: [seed for seed in seeds if have(shards, seed - first)], agreed.put)


class AgreedScout:
    """The scout of all processes: two of them may find other ranges, if the last digits of their numbers differ.

    The file is linked to its name when it is whole, so that the first one that comes wins, without a lock.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        same = json.dumps([about["device"], *(about[name] for name in COMMON if name in about)], sort_keys=True)
        self._file = folder / f"scout-{hashlib.sha256(same.encode()).hexdigest()[:16]}.json"

    def get(self) -> tuple[float, ...] | None:
        """What was agreed on, None if nothing was."""
        try:
            return checked_scout(tuple(json.loads(read_text(self._file))))
        except (OSError, ValueError, TypeError, RecursionError):
            return None

    def put(self, scout: tuple[float, ...]) -> tuple[float, ...]:
        """Propose a scout, and get that of the first who did."""
        # numbers of processes are the same in many containers
        mine = self._file.with_suffix(f".{secrets.token_hex(8)}")
        write_whole(mine, json.dumps(scout))
        try:
            # another was faster; or the disk has no links, and merging sees a difference
            with contextlib.suppress(OSError):
                os.link(mine, self._file)
        finally:
            mine.unlink(missing_ok=True)
        return self.get() or scout


@dataclass(frozen=True)
class FinishedShard:
    """A shard that is finished: its folder, which of them it is, and whether it was measured with --deterministic."""

    folder: Path
    shard: Shard
    deterministic: bool


def find_shards(folders: Sequence[Path]) -> list[FinishedShard]:
    """The shards in these folders.

    Raises:
        ConfigError: one is none, or not finished, or of another number of them, or two are the same shard.
    """
    found: list[FinishedShard] = []
    for folder in folders:
        values = load_checkpoint(CheckpointFolder(folder / "checkpoint")).values
        if values is None:
            raise ConfigError(f"{folder}: is no shard of a range test; clrtool rangetest --seed-shard K/N makes one")
        result = values["finished"].get("share")
        if result is None:
            raise ConfigError(
                f"{folder}: is not finished; run the command that started it, without --fresh, to continue"
            )
        with as_config_error(f"{folder}: "):
            shard = Shard.parse(result["shard"])
        for other in found:
            if shard.of != other.shard.of:
                raise ConfigError(f"{folder} is shard {shard}, and {other.folder} is {other.shard}: shards of one test")
            if shard == other.shard:
                raise ConfigError(f"{folder} and {other.folder} are both shard {shard}: give each shard once")
        found.append(FinishedShard(folder, shard, values["deterministic"]))
    return found


def known_to(folders: Sequence[Path], about: Mapping[str, Any], agreed: AgreedScout) -> RemoteResults:
    """What a shard can know of the others: results that fit it, which take no time of its own."""
    finished: dict[str, Any] = {}
    for _, values in _checkpoints(folders):
        if all(values.get(name) == value for name, value in about.items()):
            finished = results(values) | finished
    if (scout := agreed.get()) is not None:
        finished["scout"] = scout
    return RemoteResults(finished)


def union(folders: Sequence[Path], about: Mapping[str, Any]) -> RemoteResults:
    """All that was measured in the folders.

    Raises:
        ConfigError: they are of different tests, or of another one than ``about`` is.
    """
    found = list(_checkpoints(folders))
    if not found:
        return RemoteResults()
    (place, first), finished, seconds, warnings = found[0], dict[str, Any](), {}, list[str]()
    for folder, values in found:
        _check(folder, values, {name: about[name] for name in COMMON}, "this test")
        _check(folder, values, {"device": first["device"]}, str(place))
        mine = results(values)
        if "scout" in mine and finished.setdefault("scout", mine["scout"]) != mine["scout"]:
            raise ConfigError(
                f"{place} and {folder} swept different ranges, because their scouts differ: give both sweep.start_lr "
                "and sweep.end_lr, or keep the folders of all shards in one place while they run"
            )
        finished = mine | finished
        # shards of different machines may be in folders of one name
        name = folder.name if folder.name not in seconds else str(folder)
        seconds[name] = added_up([values["seconds"], *values.get("elsewhere", {}).values()])
        what = f"The seeds of {folder.name} were measured"
        warnings += [*values["warnings"], *moved(first["environment"], values["environment"], what)]
    return RemoteResults(
        finished, seconds, tuple(dict.fromkeys(warnings)), first["environment"],
        tuple(moved(first["environment"], about["environment"], "The last seeds were measured")),
        first["device"] if first["device"] != about["device"] else None,
    )  # fmt: skip


def _check(folder: Path, values: Mapping[str, Any], wanted: Mapping[str, Any], other: str) -> None:
    """Raise ConfigError if a shard is of another test."""
    for told in differences(values, wanted).values():
        raise ConfigError(f"{folder} does not belong to {other}: it {told}")
    if "micro_batches" in wanted and values.get("micro_batches") != wanted["micro_batches"]:
        most = max(values.get("micro_batches", 1), wanted["micro_batches"])
        raise ConfigError(
            f"{folder} split its batches differently from {other}: set training.micro_batches={most} for all"
        )


def _checkpoints(folders: Sequence[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    for folder in folders:
        values = load_checkpoint(CheckpointFolder(folder / "checkpoint")).values
        if values is not None:
            yield folder, values


def results(values: Mapping[str, Any]) -> dict[str, Any]:
    """The results of a checkpoint that are the same wherever they are measured."""
    return {name: result for name, result in values["finished"].items() if name == "scout" or name.startswith("seed ")}
