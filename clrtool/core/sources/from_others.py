"""Single schedules of torchtune, schedule-free and accelerate."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from clrtool.core.schedules import Moved, Phases, Schedule, fixed
from clrtool.core.schedules.checks import check_whole
from clrtool.core.sources.from_transformers import cosine_with_warmup
from clrtool.core.sources.parts import name_of, read_part
from clrtool.core.sources.registry import source


@source("torchtune.training.get_cosine_schedule_with_warmup")
def torchtune_cosine(
    num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5, base_lr: float = 1e-3
) -> Schedule:
    return cosine_with_warmup(base_lr, num_warmup_steps, num_training_steps, num_cycles)


@source("schedulefree.SGDScheduleFree")
def schedule_free(lr: float = 1.0, warmup_steps: int = 0) -> Schedule:
    """Its own warm-up: iteration t trains at ``lr * (t + 1) / warmup_steps``, and from its end at ``lr``."""
    check_whole("warmup_steps", warmup_steps, at_least=0)
    if warmup_steps < 2:
        return fixed(lr)
    return Phases(knots=(0, warmup_steps - 1), values=(lr / warmup_steps, lr), shapes=("linear",))


@source("accelerate.scheduler.AcceleratedScheduler")
def accelerated(scheduler: Any, num_processes: int = 1, split_batches: bool = False, base_lr: float = 1e-3) -> Schedule:
    """A scheduler of torch, stepped once for every process unless the batches are split among them."""
    made = read_part(scheduler, "torch", base_lr=base_lr)
    check_whole("num_processes", num_processes)
    if split_batches:
        return made
    if name_of(scheduler, "torch")[0].endswith(".OneCycleLR"):
        made = _one_step_past(made)
    return Moved(made, num_processes)


def _one_step_past(cycle: Schedule) -> Schedule:
    """A one cycle is stepped once past its end, where torch goes on along its last phase, and held there."""
    assert isinstance(cycle, Phases)
    (begin, end), shape = cycle.knots[-2:], cycle.shapes[-1]
    share = (end + 1 - begin) / (end - begin)
    share = (1 - math.cos(math.pi * share)) / 2 if shape == "cosine" else share

    def past(values: tuple[float, ...]) -> tuple[float, ...]:
        return (*values, values[-2] + (values[-1] - values[-2]) * share)

    return replace(
        cycle, knots=(*cycle.knots, end + 1), values=past(cycle.values), shapes=(*cycle.shapes, "linear"),
        momenta=None if cycle.momenta is None else past(cycle.momenta), iterations=int(end) + 2,
    )  # fmt: skip
