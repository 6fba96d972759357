"""A plan as text, in blocks, so that a long one takes the memory of one block; and a plan read from its file."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from clrtool.core.plan import Plan
from clrtool.core.record import SCHEMA_VERSION
from clrtool.errors import ConfigError, as_config_error
from clrtool.report.code import FRAMEWORKS, to_code
from clrtool.report.record_file import DAMAGED, YAML_ENDINGS, damaged, load

# Rows of a CSV that are computed at a time.
CSV_BLOCK = 100_000


def read_plan(file: Path | str) -> Plan:
    """The plan in a JSON or YAML file: a result, a bounds file or a plan. Raises ConfigError if there is none."""
    file = Path(file)
    values = load(file)
    try:
        plan = to_plan(values["plan"])
    except DAMAGED as error:
        raise damaged(file, error) from error
    if plan is None:
        raise ConfigError(f"{file}: holds no plan, because its range test was inconclusive")
    return plan


def to_plan(values: Any) -> Plan | None:
    """A plan from the plain values of its file, none from none. Raises ValueError where one breaks its rule."""
    from pydantic import TypeAdapter  # noqa: PLC0415 (writing a plan needs none of it)

    return None if values is None else TypeAdapter(Plan).validate_json(json.dumps(values), strict=True)


def is_plan(place: Path) -> bool:
    """Whether a YAML file is a plan and not a config: by its first line."""
    if place.suffix not in YAML_ENDINGS or not place.is_file():
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
        return {"schema_version": SCHEMA_VERSION, "plan": plan.to_dict()}


def to_csv(plan: Plan) -> Iterator[str]:
    """``iteration,lr`` and where the plan moves it ``momentum``, a row for each iteration to the end of the plan."""
    moves = plan.schedule.cycles_momentum
    yield "iteration,lr,momentum\n" if moves else "iteration,lr\n"
    for start in range(0, plan.last + 1, CSV_BLOCK):
        iterations = range(start, min(start + CSV_BLOCK, plan.last + 1))
        columns = [plan.schedule(iterations).tolist()]
        if moves:
            momentum = plan.schedule.momentum(iterations)
            assert momentum is not None
            columns.append(momentum.tolist())
        yield "".join(f"{t},{','.join(map(repr, row))}\n" for t, *row in zip(iterations, *columns, strict=True))


def _code(plan: Plan, framework: str) -> list[str]:
    return [to_code(plan, framework)]


FORMATS: Mapping[str, Callable[[Plan], Iterable[str]]] = {
    "json": lambda plan: [plan_to_json(plan)],
    "yaml": lambda plan: [plan_to_yaml(plan)],
    "csv": to_csv,
} | {framework: partial(_code, framework=framework) for framework in FRAMEWORKS}
