"""A plan in a file of its own, JSON or YAML, written and read."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from clrtool.core.planning.plan import Plan
from clrtool.core.results.record import PLAN_VERSION
from clrtool.errors import ConfigError, as_config_error
from clrtool.report.records.record_file import YAML_ENDINGS, intact, load


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


def _plan_file(plan: Plan) -> dict[str, Any]:
    with as_config_error():
        return {"schema_version": PLAN_VERSION, "plan": plan.to_dict()}
