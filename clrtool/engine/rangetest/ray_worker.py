"""A seed far away: what a process on another machine is given of a range test, and the checkpoint that comes back.

Only plain values and the bytes of checkpoints, which are loaded without running code, travel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import chdir, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clrtool.config.schema import RangeTestConfig
from clrtool.core.results.shard import LackingError
from clrtool.engine.configured.build import build_workload
from clrtool.engine.rangetest.observer import Observer
from clrtool.engine.rangetest.pipeline import sweep_seeds
from clrtool.engine.resume.journal import Assignment, Journal, RemoteResults
from clrtool.engine.resume.open import about_test
from clrtool.engine.runtime.device import computing_with
from clrtool.engine.runtime.serialize import from_bytes, to_bytes
from clrtool.errors import ConfigError, MachineError


@dataclass
class _Kept:
    """A store in memory."""

    values: Mapping[str, Any]

    def save(self, values: Mapping[str, Any]) -> None:
        self.values = values


def sweep_remotely(
    config: Mapping[str, Any], source: Mapping[str, Any], threads: int, place: str, known: bytes, seeds: Sequence[int]
) -> dict[str, Any]:
    """Train these seeds of a range test, and its scout if it is not known.

    Args:
        config: the resolved config.
        source: what ``build_workload`` takes beside it.
        threads: that torch computes with.
        place: the folder from which relative paths start, where there is such a one.
        known: the results that are known, as the bytes of a checkpoint.

    Returns:
        ``checkpoint``, its bytes, and ``lacking``, the seeds that are to be trained next; or ``error``, of the kind
        ``kind``, for exceptions of ours need not be known where they arrive.
    """
    try:
        with computing_with(threads), chdir(place) if Path(place).is_dir() else nullcontext():
            return _sweep(RangeTestConfig.model_validate(config), source, from_bytes(known), seeds)
    except (ConfigError, MachineError) as error:
        return {"kind": "config" if isinstance(error, ConfigError) else "machine", "error": str(error)}


def _sweep(
    config: RangeTestConfig, source: Mapping[str, Any], known: Mapping[str, Any], seeds: Sequence[int]
) -> dict[str, Any]:
    workload = build_workload(config, **{**source, "folder": Path(source["folder"])})
    kept, lacking = _Kept({}), tuple[int, ...]()
    journal = Journal(
        kept,
        about=about_test(workload, config.sha256()),
        remote=RemoteResults(known),
        assignment=Assignment(lambda wanted: [seed for seed in wanted if seed in seeds]),
    )
    try:
        sweep_seeds(workload, config, Observer(), journal)
    except LackingError as error:
        lacking = error.seeds
    journal.finish()
    return {"checkpoint": to_bytes(kept.values), "lacking": list(lacking)}
