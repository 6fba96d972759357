"""A plan as text, in blocks, so that a long one takes the memory of one block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from clrtool.core.plan import Plan
from clrtool.report.code import FRAMEWORKS, to_code
from clrtool.report.run import plan_to_json, plan_to_yaml

# Rows of a CSV that are computed at a time.
CSV_BLOCK = 100_000


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
