"""The file that a repository commits: bounds and plan of a range test, with all that they follow from.

JSON with sorted keys, without times and host names, so that a difference in git is a difference in what is recommended.
``clrtool plan`` and ``clrtool plot`` read it as they read a run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clrtool.core.reading.bounds import Bounds
from clrtool.core.results.recommendation import Recommendation
from clrtool.core.results.record import SCHEMA_VERSION
from clrtool.errors import ConfigError
from clrtool.files import write_whole
from clrtool.report.records.plan_file import to_plan
from clrtool.report.records.record_file import intact, load, sealed


def write_bounds(file: Path, kept: Recommendation) -> None:
    """Write it whole or not at all. Raises MachineError if it cannot be written."""
    values = vars(kept) | {
        "schema_version": SCHEMA_VERSION,
        "bounds": kept.bounds.to_dict(),
        "plan": kept.plan.to_dict() if kept.plan else None,
        "seeds": {str(seed): pair and {"base_lr": pair[0], "max_lr": pair[1]} for seed, pair in kept.seeds.items()},
    }
    write_whole(file, sealed(values, sort_keys=True))


def read_bounds(file: Path) -> Recommendation:
    """Read the file again. Raises ConfigError if it is none, or was changed since."""
    values = load(file)
    if "seeds" not in values or "rule" not in values:
        raise ConfigError(f"{file}: is no file that clrtool rangetest --write has made")
    with intact(file):
        return Recommendation(
            seed=int(values["seed"]),
            seeds={int(seed): _pair(pair) for seed, pair in values["seeds"].items()},
            bounds=Bounds.from_dict(values["bounds"]),
            plan=to_plan(values["plan"]),
            tolerance=float(values["tolerance"]),
            rule=int(values["rule"]),
            **{name: values[name] for name in ("config", "data_sha256", "sources", "environment")},
        )


def _pair(values: Any) -> tuple[float, float] | None:
    return None if values is None else (float(values["base_lr"]), float(values["max_lr"]))
