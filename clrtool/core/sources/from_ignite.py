"""``ignite.handlers``, attached to ``ITERATION_STARTED``; a torch scheduler inside is one of torch's by its name."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from clrtool.core.schedules import Moved, Phases, Repeat, Schedule, Unread, fixed, in_sequence
from clrtool.core.schedules.checks import check_lr, check_whole
from clrtool.core.schedules.phases import Shape
from clrtool.core.sources.parts import name_of, read_part
from clrtool.core.sources.registry import source

_PREFIX = "ignite.handlers."
# A cyclical scheduler goes on for ever; so many cycles that differ are worked out, or as many as fit into these
# iterations.
_CYCLES, _FAR = 300, 2**40


@source(_PREFIX + "PiecewiseLinear")
def piecewise_linear(
    milestones_values: Sequence[tuple[int, float]],
    param_name: str = "lr",
) -> Schedule:
    """A line from each milestone to the next; two at the same iteration are a jump."""
    if not milestones_values:
        raise ValueError("milestones_values needs at least one pair of a milestone and its value")
    parts: list[Schedule] = []
    begins: list[int] = []
    for (begin, start), (end, value) in pairwise(milestones_values):
        check_whole("a milestone", begin, at_least=0)
        if end < begin:
            raise ValueError(f"milestones must not fall, got {end} after {begin}")
        if end > begin:
            parts.append(Phases(knots=(0, end - begin), values=(start, value), shapes=("linear",)))
            begins.append(int(begin))
    last, value = milestones_values[-1]
    parts.append(fixed(value))
    begins.append(int(last))
    if begins[0] > 0:
        parts, begins = [fixed(milestones_values[0][1]), *parts], [0, *begins]
    return in_sequence(parts, begins)


@source(_PREFIX + "LinearCyclicalScheduler")
def linear_cyclical(
    start_value: float,
    end_value: float,
    cycle_size: int,
    cycle_mult: float = 1.0,
    start_value_mult: float = 1.0,
    end_value_mult: float = 1.0,
    warmup_duration: int = 0,
    monotonic: bool = False,
    param_name: str = "lr",
) -> Schedule:
    """From the start to the end and back, or with ``monotonic`` to the end alone."""
    if warmup_duration and not monotonic:
        raise ValueError("warmup_duration needs monotonic=True")
    mults = (start_value_mult, end_value_mult)
    shape = "linear" if monotonic else "triangle"
    return _cycles((start_value, end_value), mults, (cycle_size, warmup_duration), cycle_mult, shape)


@source(_PREFIX + "CosineAnnealingScheduler")
def cosine_annealing(
    start_value: float,
    end_value: float,
    cycle_size: int,
    cycle_mult: float = 1.0,
    start_value_mult: float = 1.0,
    end_value_mult: float = 1.0,
    warmup_duration: int = 0,
    param_name: str = "lr",
) -> Schedule:
    mults = (start_value_mult, end_value_mult)
    return _cycles((start_value, end_value), mults, (cycle_size, warmup_duration), cycle_mult, "cosine")


@source(_PREFIX + "ConcatScheduler")
def concat(schedulers: Sequence[Any], durations: Sequence[int]) -> Schedule:
    """One after another, each from its own step 0, for its duration."""
    if len(schedulers) != len(durations) + 1:
        raise ValueError(f"{len(schedulers)} schedulers need {len(schedulers) - 1} durations, got {durations!r}")
    for duration in durations:
        check_whole("a duration", duration)
    return in_sequence([read_part(part, "ignite") for part in schedulers], [0, *accumulate(durations)])


@source(_PREFIX + "LRScheduler")
def lr_scheduler(lr_scheduler: Any, base_lr: float = 1e-3) -> Schedule:
    """A scheduler of torch."""
    return read_part(lr_scheduler, "torch", base_lr=base_lr)


@source(_PREFIX + "create_lr_scheduler_with_warmup")
def with_warmup(
    lr_scheduler: Any,
    warmup_start_value: float,
    warmup_duration: int,
    warmup_end_value: float | None = None,
    base_lr: float = 1e-3,
) -> Schedule:
    """A straight rise whose last value is where the scheduler begins; that value does not come twice."""
    check_whole("warmup_duration", warmup_duration, at_least=2)
    system = "torch" if _of_torch(lr_scheduler) else "ignite"
    schedule = read_part(lr_scheduler, system, base_lr=base_lr)
    first = float(schedule([0])[0])
    found = first if system == "torch" else base_lr
    end = found if warmup_end_value is None else warmup_end_value
    rise = Phases(knots=(0, warmup_duration - 1), values=(warmup_start_value, end), shapes=("linear",))
    if system == "torch":
        # its own first value ends the warm-up, or follows it where it is another
        return in_sequence([rise, schedule if end != found else Moved(schedule, by=1)], [0, warmup_duration])
    return in_sequence([rise, schedule], [0, warmup_duration - (end == first)])


def _of_torch(part: Any) -> bool:
    try:
        return name_of(part, "torch")[0].startswith("torch.")
    except ValueError:
        return False


def _cycles(
    values: tuple[float, float],
    mults: tuple[float, float],
    lengths: tuple[int, int],
    cycle_mult: float,
    shape: str,
) -> Schedule:
    """Cycle after cycle, each followed by its warm-up from the end back to the next start."""
    (start, end), (size, warmup) = values, lengths
    check_whole("cycle_size", size, at_least=2)
    check_whole("warmup_duration", warmup, at_least=0)
    check_lr("cycle_mult", cycle_mult)
    parts: list[Schedule] = []
    begins: list[int] = []
    begin = 0
    for _ in range(_CYCLES):
        if begin >= _FAR or size <= 0:
            return in_sequence(parts, begins)
        after = start * mults[0]
        parts.append(_cycle(start, end, size, shape))
        begins.append(begin)
        if warmup:
            # the warm-up is counted from the cycle's end, where the cycle has its own last value
            knots = (-1, warmup - 1)
            parts.append(Phases(knots=knots, values=(end, after), shapes=("linear",)))
            begins.append(begin + size + 1)
        begin += size + warmup
        start, end, size, warmup = after, end * mults[1], int(size * cycle_mult), int(warmup * cycle_mult)
        if cycle_mult == 1 and mults == (1, 1):
            return Repeat(in_sequence(parts, begins), begin)
    unread = Unread(f"of cycles that differ the first {_CYCLES} are read, up to iteration {begin:,}")
    return in_sequence([*parts, unread], [*begins, begin])


def _cycle(start: float, end: float, size: int, shape: str) -> Schedule:
    if shape != "cosine":
        start = end + (start - end)  # as ignite rounds it: whether a warm-up ends in it hangs on the last digit
    if shape == "triangle":
        return Phases(knots=(0, size / 2, size), values=(start, end, start), shapes=("linear",) * 2)
    bent: Shape = "cosine" if shape == "cosine" else "linear"
    return Phases(knots=(0, size), values=(start, end), shapes=(bent,))
