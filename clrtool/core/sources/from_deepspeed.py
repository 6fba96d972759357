"""The ``scheduler`` section of a DeepSpeed config."""

from __future__ import annotations

from clrtool.core.schedules import Cyclical, Join, Phases, Schedule, fixed, triangular, with_warmup
from clrtool.core.schedules.checks import check_whole
from clrtool.core.schedules.decays import Inverse
from clrtool.core.sources.registry import source

_PREFIX = "deepspeed.runtime.lr_schedules."


@source(_PREFIX + "OneCycle")
def one_cycle(
    cycle_min_lr: float,
    cycle_max_lr: float,
    decay_lr_rate: float = 0.0,
    cycle_first_step_size: int = 2000,
    cycle_second_step_size: int | None = None,
    decay_step_size: int = 0,
    cycle_momentum: bool = True,
    cycle_min_mom: float = 0.8,
    cycle_max_mom: float = 0.9,
) -> Schedule:
    """One triangle, then ``cycle_min_lr``, which may decay. Momentum moves for optimizers with betas only."""
    momentum = (cycle_min_mom, cycle_max_mom) if cycle_momentum else None
    cycle = triangular(cycle_min_lr, cycle_max_lr, cycle_first_step_size, cycle_second_step_size, momentum)
    return Join((cycle, _tail(cycle, decay_lr_rate, decay_step_size)), (0, cycle.period))


def _tail(cycle: Cyclical, rate: float, every: int) -> Schedule:
    if cycle.momentum_bounds is not None:
        if rate and every:
            raise ValueError("decay_lr_rate after a cycle that moves the momentum is not known to clrtool")
        high = cycle.momentum_bounds[1]
        return Phases(knots=(0, 1), values=(cycle.base_lr,) * 2, shapes=("linear",), momenta=(high, high))
    return Inverse(max_lr=cycle.base_lr, rate=rate, every=every) if rate and every else fixed(cycle.base_lr)


@source(_PREFIX + "WarmupDecayLR")
def warmup_decay_lr(
    total_num_steps: int,
    warmup_min_lr: float = 0.0,
    warmup_max_lr: float = 0.001,
    warmup_num_steps: int = 1000,
    warmup_type: str = "log",
) -> Schedule:
    """Only the linear warm-up is known."""
    if warmup_type != "linear":
        raise ValueError(f"warmup_type must be 'linear' here (DeepSpeed's default is 'log'), got {warmup_type!r}")
    check_whole("total_num_steps", total_num_steps, at_least=warmup_num_steps + 1)
    fall = Phases(knots=(0, total_num_steps - warmup_num_steps), values=(warmup_max_lr, 0.0), shapes=("linear",))
    return with_warmup(fall, warmup_num_steps, warmup_min_lr)
