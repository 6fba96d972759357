"""Everything that a plan can be printed as, in blocks, so that a long one takes the memory of one block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from clrtool.core.planning.plan import Plan
from clrtool.report.programs.program import FRAMEWORKS, to_code
from clrtool.report.records.plan_file import plan_to_json, plan_to_yaml

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


def _blocks(write: Callable[[Plan], str], plan: Plan) -> list[str]:
    return [write(plan)]


FORMATS: Mapping[str, Callable[[Plan], Iterable[str]]] = {
    "json": partial(_blocks, plan_to_json),
    "yaml": partial(_blocks, plan_to_yaml),
    "csv": to_csv,
    **{name: partial(_blocks, partial(to_code, framework=name)) for name in FRAMEWORKS},
}
