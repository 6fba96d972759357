"""The file that a repository commits: bounds and plan of a range test, with all that they follow from.

JSON with sorted keys, without times and host names, so that a difference in git is a difference in what is recommended.
``clrtool plan`` and ``clrtool plot`` read it as they read a run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clrtool.core.reading.bounds import Bounds
from clrtool.core.results.recommendation import Recommendation
from clrtool.core.results.record import SCHEMA_VERSION
from clrtool.errors import ConfigError
from clrtool.files import write_whole
from clrtool.report.records.plan_file import to_plan
from clrtool.report.records.record_file import DAMAGED, damaged, load, sha256_of


def write_bounds(file: Path, kept: Recommendation) -> None:
    """Write it whole or not at all. Raises MachineError if it cannot be written."""
    values = {
        "schema_version": SCHEMA_VERSION,
        "bounds": kept.bounds.to_dict(),
        "config": kept.config,
        "data_sha256": kept.data_sha256,
        "environment": dict(kept.environment),
        "plan": kept.plan.to_dict() if kept.plan else None,
        "rule": kept.rule,
        "seed": kept.seed,
        "seeds": {str(seed): pair and {"base_lr": pair[0], "max_lr": pair[1]} for seed, pair in kept.seeds.items()},
        "sources": dict(kept.sources),
        "tolerance": kept.tolerance,
    }
    whole = values | {"sha256": sha256_of(values)}
    write_whole(file, json.dumps(whole, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_bounds(file: Path) -> Recommendation:
    """Read the file again. Raises ConfigError if it is none, or was changed since."""
    values = load(file)
    if "seeds" not in values or "rule" not in values:
        raise ConfigError(f"{file}: is no file that clrtool rangetest --write has made")
    try:
        return Recommendation(
            config=values["config"],
            seed=int(values["seed"]),
            data_sha256=values["data_sha256"],
            sources=values["sources"],
            seeds={int(seed): _pair(pair) for seed, pair in values["seeds"].items()},
            bounds=Bounds.from_dict(values["bounds"]),
            plan=to_plan(values["plan"]),
            environment=values["environment"],
            tolerance=float(values["tolerance"]),
            rule=int(values["rule"]),
        )
    except DAMAGED as error:
        raise damaged(file, error) from error


def _pair(values: Any) -> tuple[float, float] | None:
    return None if values is None else (float(values["base_lr"]), float(values["max_lr"]))
