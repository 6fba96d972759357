"""Everything that a plan can be printed as, in blocks, so that a long one takes the memory of one block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clrtool.core.planning.plan import Plan
    from clrtool.core.schedules import FloatArray

# The formats, each with the endings of a file that may hold it; the first format of an ending is what it means alone.
FORMATS: Mapping[str, tuple[str, ...]] = {
    "json": (".json",), "csv": (".csv",), "yaml": (".yaml", ".yml"), "torch": (".py",), "lightning": (".py",),
    "transformers": (".py",), "keras": (".py",), "optax": (".py",), "timm": (".py",), "ignite": (".py",),
    "mmengine": (".py",), "composer": (".py",), "deepspeed": (".json",), "caffe": (".prototxt",),
}  # fmt: skip
# The formats that are run before they are given, in the package of that name, where it is installed.
PACKAGES = ("timm", "ignite", "mmengine", "composer", "deepspeed")
# Rows of a CSV that are computed at a time.
CSV_BLOCK = 100_000


def to_csv(plan: Plan) -> Iterator[str]:
    """``iteration,lr`` and where the plan moves it ``momentum``, a row for each iteration to the end of the plan.

    Of several parameter groups ``lr_1``, ``lr_2`` and so on, and so their momenta.
    """
    groups = {f"_{number}" if len(plan.groups) > 1 else "": each.schedule for number, each in enumerate(plan.groups, 1)}
    columns: dict[str, Callable[[range], FloatArray | None]] = {f"lr{end}": each for end, each in groups.items()}
    columns |= {f"momentum{end}": each.momentum for end, each in groups.items() if each.cycles_momentum}
    yield ",".join(["iteration", *columns]) + "\n"
    for start in range(0, plan.last + 1, CSV_BLOCK):
        iterations = range(start, min(start + CSV_BLOCK, plan.last + 1))
        values = (column(iterations) for column in columns.values())
        rows = zip(iterations, *(each.tolist() for each in values if each is not None), strict=True)
        yield "".join(f"{t},{','.join(map(repr, row))}\n" for t, *row in rows)


def write_plan(plan: Plan, form: str) -> Iterable[str]:
    """The plan in one of ``FORMATS``.

    Raises:
        ConfigError: a framework has no such schedule.
    """
    # They bring in numpy, for which the help of a command does not wait.
    from clrtool.report.programs.program import to_code  # noqa: PLC0415
    from clrtool.report.records.plan_file import plan_to_json, plan_to_yaml  # noqa: PLC0415

    if form == "csv":
        return to_csv(plan)
    files = {"json": plan_to_json, "yaml": plan_to_yaml}
    return [files[form](plan) if form in files else to_code(plan, form)]
