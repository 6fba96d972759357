"""``ignite.handlers``, attached to ``ITERATION_STARTED``; a torch scheduler inside is one of torch's by its name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from clrtool.core.schedules import Cosine, Moved, Phases, Product, Repeat, Schedule, Unread, fixed, in_sequence
from clrtool.core.schedules.checks import check_lr, check_whole
from clrtool.core.schedules.phases import Shape
from clrtool.core.sources.parts import check_listed, name_of, read_part
from clrtool.core.sources.registry import source

_PREFIX = "ignite.handlers."
_TORCH = "torch.optim.lr_scheduler."
# A cyclical scheduler goes on for ever; so many cycles that differ are worked out, or as many as fit into these
# iterations.
_CYCLES, _FAR = 300, 2**40
_CHAINED = ("StepLR", "MultiStepLR", "ExponentialLR", "PolynomialLR")


@source(_PREFIX + "PiecewiseLinear")
def piecewise_linear(
    milestones_values: Sequence[tuple[int, float]],
    param_name: str = "lr",
) -> Schedule:
    """A line from each milestone to the next; two at the same iteration are a jump."""
    if not isinstance(milestones_values, list | tuple) or not milestones_values:
        raise ValueError(f"milestones_values needs pairs of a milestone and its value, got {milestones_values!r}")
    for pair in milestones_values:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(f"milestones_values are pairs of a milestone and its value, got {pair!r}")
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
def concat(schedulers: Sequence[Any], durations: Sequence[int], base_lr: float = 1e-3) -> Schedule:
    """One after another, each from its own step 0, for its duration.

    A scheduler of torch begins with the learning rate that it finds: the optimizer's, or the last of the part before.
    """
    check_listed("schedulers", schedulers, at_least=2)
    if not isinstance(durations, list | tuple) or len(schedulers) != len(durations) + 1:
        raise ValueError(f"{len(schedulers)} schedulers need {len(schedulers) - 1} durations, got {durations!r}")
    for duration in durations:
        check_whole("a duration", duration)
    if sum(map(_of_torch_inside, schedulers)) > 1:
        raise ValueError("of schedulers of torch in one ConcatScheduler, which change each other, only one is read")
    parts: list[Schedule] = []
    for number, part in enumerate(schedulers):
        found = float(parts[-1]([durations[number - 1] - 1])[0]) if number else base_lr
        if number and _of_torch_inside(part) and not _chained(part):
            raise ValueError(
                "a scheduler of torch after others in a ConcatScheduler begins with what it finds, which is read of "
                f"{', '.join(_CHAINED)} alone; got {part!r}"
            )
        parts.append(read_part(part, "ignite", base_lr=found if _of_torch_inside(part) else base_lr))
    return in_sequence(parts, [0, *accumulate(durations)])


@source(_PREFIX + "LRScheduler")
def lr_scheduler(lr_scheduler: Any, base_lr: float = 1e-3) -> Schedule:
    """A scheduler of torch, which takes its first step twice: when it is made, and when the training begins.

    So one that multiplies what it finds is ahead of itself. That is torch as it is today; in older versions
    ExponentialLR, PolynomialLR and CosineAnnealingLR kept the optimizer's learning rate for one iteration.
    """
    full, params = name_of(lr_scheduler, "torch")
    schedule = read_part(lr_scheduler, "torch", base_lr=base_lr)
    match full.removeprefix(_TORCH):
        case "StepLR" | "MultiStepLR" | "CyclicLR" | "OneCycleLR" | "LambdaLR":
            return schedule
        case "ExponentialLR" | "CosineAnnealingWarmRestarts":
            return Moved(schedule, by=1)
        case "LinearLR":
            return Product((fixed(params.get("start_factor", 1 / 3)), schedule))
        case "ConstantLR":
            return Product((fixed(params.get("factor", 1 / 3)), schedule))
        case "PolynomialLR":
            steps = params.get("total_iters", 5)
            return Product((fixed((steps / (steps + 1)) ** params.get("power", 1.0)), schedule))
        case "CosineAnnealingLR" if isinstance(schedule, Cosine) and schedule.iterations > 1:
            height = 2 / (1 + math.cos(math.pi / schedule.iterations))
            first = schedule.base_lr + (schedule.max_lr - schedule.base_lr) * height
            return in_sequence([fixed(first), Moved(schedule, by=1)], [0, 1])
    raise ValueError(
        f"{full.removeprefix(_TORCH)} in an LRScheduler of ignite, which takes its first step twice, is not read"
    )


@source(_PREFIX + "ReduceLROnPlateauScheduler")
def reduce_lr_on_plateau(**_: object) -> Schedule:
    """It follows a metric."""
    raise ValueError("ReduceLROnPlateauScheduler follows a metric: what it does is not known before the training")


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
    system = "torch" if of_torch(lr_scheduler) else "ignite"
    schedule = read_part(lr_scheduler, system, base_lr=base_lr)
    first = float(schedule([0])[0])
    found = first if system == "torch" else base_lr
    end = found if warmup_end_value is None else warmup_end_value
    rise = Phases(knots=(0, warmup_duration - 1), values=(warmup_start_value, end), shapes=("linear",))
    if system == "torch":
        # its own first value ends the warm-up, or follows it where it is another
        return in_sequence([rise, schedule if end != found else Moved(schedule, by=1)], [0, warmup_duration])
    return in_sequence([rise, schedule], [0, warmup_duration - (end == first)])


def _of_torch_inside(part: Any) -> int:
    """How many schedulers of torch a part holds that begin with what they find; one with a warm-up doesn't."""
    full, params = name_of(part, "ignite")
    if full == _PREFIX + "LRScheduler":
        return 1
    return sum(map(_of_torch_inside, params["schedulers"])) if full == _PREFIX + "ConcatScheduler" else 0


def _chained(part: Any) -> bool:
    """Whether a part is a scheduler of torch that multiplies what it finds, again and again."""
    inner = name_of(part, "ignite")[1].get("lr_scheduler")
    return inner is not None and name_of(inner, "torch")[0].split(".")[-1] in _CHAINED


def of_torch(part: Any) -> bool:
    """Whether a part of ignite's is a scheduler of torch."""
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
