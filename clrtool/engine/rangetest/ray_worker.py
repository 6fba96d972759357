"""A seed far away: what a process on another machine is given of a range test, and the checkpoint that comes back.

Only plain values and the bytes of checkpoints, which are loaded without running code, travel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import chdir, nullcontext
from pathlib import Path
from typing import Any

from clrtool.config.schema import RangeTestConfig
from clrtool.engine.configured.build import build_workload
from clrtool.engine.rangetest.share import sweep_share
from clrtool.engine.runtime.device import computing_with
from clrtool.engine.runtime.serialize import from_bytes, to_bytes
from clrtool.errors import ConfigError, MachineError


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
    asked = RangeTestConfig.model_validate(config)
    try:
        with computing_with(threads), chdir(place) if Path(place).is_dir() else nullcontext():
            workload = build_workload(asked, **{**source, "folder": Path(source["folder"])})
            values, lacking = sweep_share(workload, asked, from_bytes(known), seeds)
            return {"checkpoint": to_bytes(values), "lacking": list(lacking)}
    except (ConfigError, MachineError) as error:
        return {"kind": "config" if isinstance(error, ConfigError) else "machine", "error": str(error)}
