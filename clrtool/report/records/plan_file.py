"""Files outside of a run folder: a plan, JSON or YAML, and the bounds and the plan that a repository keeps."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from clrtool.core.planning.plan import Plan
from clrtool.core.reading.bounds import Bounds
from clrtool.core.results.recommendation import Recommendation
from clrtool.core.results.record import PLAN_VERSION, SCHEMA_VERSION
from clrtool.errors import ConfigError, as_config_error
from clrtool.files import write_whole
from clrtool.report.records.record_file import YAML_ENDINGS, intact, load, sealed


def read_plan(file: Path | str) -> Plan:
    """The plan in a JSON or YAML file: a result, a bounds file or a plan. Raises ConfigError if there is none."""
    file = Path(file)
    values = load(file)
    with intact(file):
        plan = to_plan(values["plan"])
    if plan is None:
        raise ConfigError(f"{file}: holds no plan, because its range test was inconclusive")
    return plan


def to_plan(values: Any) -> Plan | None:
    """A plan from the plain values of its file, none from none. Raises ValueError where one breaks its rule."""
    from pydantic import TypeAdapter  # noqa: PLC0415 (writing a plan needs none of it)

    if values is None:
        return None
    stated = {name: values[name] for name in ("epochs", "stepsize_epochs")}
    rest = {name: value for name, value in values.items() if name not in stated}
    plan = TypeAdapter(Plan).validate_json(json.dumps(rest), strict=True)
    for name, value in stated.items():
        if value != getattr(plan, name):
            raise ValueError(f"plan.{name} must be {getattr(plan, name)}, by iterations_per_epoch; it is {value!r}")
    return plan


def is_plan(place: Path) -> bool:
    """Whether a YAML file is a plan and not a config: by its first line."""
    if place.suffix.lower() not in YAML_ENDINGS or not place.is_file():
        return False
    with place.open(encoding="utf-8", errors="replace") as file:
        return file.readline(100).startswith("schema_version:")


def plan_to_json(plan: Plan) -> str:
    """A plan as a JSON file that ``read_plan`` takes."""
    return json.dumps(_plan_file(plan), indent=2, allow_nan=False) + "\n"


def plan_to_yaml(plan: Plan) -> str:
    """A plan as a YAML file that ``read_plan`` takes."""
    from ruamel.yaml import YAML  # noqa: PLC0415 (20 ms that JSON and code do without)

    stream = io.StringIO()
    YAML().dump(_plan_file(plan), stream)
    return stream.getvalue()


def write_bounds(file: Path, kept: Recommendation) -> None:
    """Write the file that a repository commits. Raises MachineError if it cannot be written.

    JSON with sorted keys, without times and host names, so that a difference in git is a difference in what is
    recommended. ``clrtool plan`` and ``clrtool plot`` read it as they read a run.
    """
    values = vars(kept) | {
        "schema_version": SCHEMA_VERSION,
        "bounds": kept.bounds.to_dict(),
        "plan": kept.plan.to_dict() if kept.plan else None,
        "seeds": {str(seed): pair and {"base_lr": pair[0], "max_lr": pair[1]} for seed, pair in kept.seeds.items()},
    }
    write_whole(file, sealed(values, sort_keys=True))


def read_bounds(file: Path) -> Recommendation:
    """Read the file of :func:`write_bounds` again. Raises ConfigError if it is none, or was changed since."""
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


def _plan_file(plan: Plan) -> dict[str, Any]:
    with as_config_error():
        return {"schema_version": PLAN_VERSION, "plan": plan.to_dict()}


def _pair(values: Any) -> tuple[float, float] | None:
    return None if values is None else (float(values["base_lr"]), float(values["max_lr"]))
