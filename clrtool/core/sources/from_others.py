"""Single schedules of torchtune, schedule-free and accelerate."""

from __future__ import annotations

from typing import Any

from clrtool.core.schedules import Moved, Phases, Schedule, fixed
from clrtool.core.schedules.checks import check_whole
from clrtool.core.sources.from_transformers import cosine_with_warmup
from clrtool.core.sources.parts import read_part
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
    return made if split_batches else Moved(made, num_processes)
