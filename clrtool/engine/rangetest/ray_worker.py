"""A seed far away: what a process on another machine is given of a range test, and the checkpoint that comes back.

Only plain values and the bytes of checkpoints, which are loaded without running code, travel.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

from clrtool.config.schema import RangeTestConfig
from clrtool.core.reading.curve import Point
from clrtool.engine.configured.build import build_workload
from clrtool.engine.configured.workload import ConfiguredWorkload
from clrtool.engine.rangetest.observer import Observer
from clrtool.engine.rangetest.share import sweep_share
from clrtool.engine.runtime.device import computing_with
from clrtool.engine.runtime.serialize import from_bytes, to_bytes
from clrtool.errors import ConfigError, MachineError


class _Telling(Observer):
    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell

    def on_point(self, seed: int, point: Point) -> None:  # noqa: ARG002
        self._tell(f"epoch {point.epoch:.1f}")


@lru_cache(maxsize=1)
def _built(config: str, source: str, place: Path) -> ConfiguredWorkload:  # noqa: ARG001 (relative paths begin there)
    """Build the workload once for all the seeds of a process: Ray has one process do several tasks of a driver."""
    given = json.loads(source)
    asked = RangeTestConfig.model_validate(json.loads(config))
    return build_workload(asked, **{**given, "folder": Path(given["folder"])})


def sweep_remotely(
    config: Mapping[str, Any],
    source: Mapping[str, Any],
    threads: int,
    place: str,
    known: bytes,
    seeds: Sequence[int],
    tell: Callable[[str], object],
) -> dict[str, Any]:
    """Train these seeds of a range test, and its scout if it is not known.

    Args:
        config: the resolved config.
        source: what ``build_workload`` takes beside it.
        threads: that torch computes with.
        place: the folder from which relative paths start, where there is such a one.
        known: the results that are known, as the bytes of a checkpoint.
        tell: called with how far it is.

    Returns:
        ``checkpoint``, its bytes, and ``lacking``, the seeds that are to be trained next; or ``error``, of the kind
        ``kind``, for exceptions of ours need not be known where they arrive.
    """
    asked = RangeTestConfig.model_validate(config)
    try:
        with computing_with(threads), chdir(place) if Path(place).is_dir() else nullcontext():
            workload = _built(json.dumps(config), json.dumps(source), Path.cwd())
            values, lacking = sweep_share(workload, asked, from_bytes(known), seeds, _Telling(tell))
            return {"checkpoint": to_bytes(values), "lacking": list(lacking)}
    except (ConfigError, MachineError) as error:
        return {"kind": "config" if isinstance(error, ConfigError) else "machine", "error": str(error)}
