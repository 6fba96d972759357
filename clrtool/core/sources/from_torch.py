"""``torch.optim.lr_scheduler``, stepped once per iteration. ``base_lr`` is the optimizer's learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from clrtool.core.schedules import (
    Cosine,
    CosineRestarts,
    Cyclical,
    Exponential,
    Moved,
    Phases,
    Piecewise,
    Product,
    Scaled,
    Schedule,
    cosine_restarts,
    cyclical,
    exponential,
    fixed,
    in_sequence,
    multiplied,
    one_cycle,
    piecewise,
    polynomial,
    step,
)
from clrtool.core.schedules.checks import LAST, check_lr, check_positive, check_whole
from clrtool.core.schedules.cyclical import Per
from clrtool.core.schedules.expression import Scale, function_of
from clrtool.core.schedules.phases import Anneal
from clrtool.core.sources.parts import begins_of, check_listed, name_of, read_part
from clrtool.core.sources.registry import source
from clrtool.core.sources.torch_nested import BENDS, KEPT, MULTIPLY, OF_OTHERS, PREFIX, check_lengths, nested


@source(PREFIX + "CyclicLR")
def cyclic_lr(
    base_lr: float,
    max_lr: float,
    step_size_up: int = 2000,
    step_size_down: int | None = None,
    mode: str = "triangular",
    gamma: float = 1.0,
    scale_fn: str | Scale | None = None,
    scale_mode: str = "cycle",
    cycle_momentum: bool = True,
    base_momentum: float = 0.8,
    max_momentum: float = 0.9,
) -> Cyclical:
    """``scale_fn`` wins over ``mode``; x is the 1-based cycle, or the iteration for ``scale_mode="iterations"``."""
    _check_one_group(base_lr=base_lr, max_lr=max_lr, base_momentum=base_momentum, max_momentum=max_momentum)
    modes = {"triangular": 1.0, "triangular2": 0.5, "exp_range": gamma}
    if scale_fn is None:
        if mode not in modes:
            raise ValueError(f"mode must be one of {', '.join(modes)}, got {mode!r}")
        scale_mode = "iterations" if mode == "exp_range" else "cycle"
    pers: dict[str, Per] = {"cycle": "cycle", "iterations": "iteration"}
    if scale_mode not in pers:
        raise ValueError(f"scale_mode must be 'cycle' or 'iterations', got {scale_mode!r}")
    scale = modes[mode] if scale_fn is None else function_of("scale_fn", scale_fn)
    momentum = (base_momentum, max_momentum) if cycle_momentum else None
    return cyclical(base_lr, max_lr, step_size_up, scale, pers[scale_mode], step_size_down, momentum=momentum)


@source(PREFIX + "OneCycleLR")
def one_cycle_lr(
    max_lr: float,
    total_steps: int | None = None,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    cycle_momentum: bool = True,
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
) -> Phases:
    """The length is ``total_steps``, or ``epochs * steps_per_epoch``. After it the last value is held."""
    _check_one_group(max_lr=max_lr, base_momentum=base_momentum, max_momentum=max_momentum)
    if anneal_strategy not in ("cos", "linear"):
        raise ValueError(f"anneal_strategy must be 'cos' or 'linear', got {anneal_strategy!r}")
    if total_steps is None:
        if epochs is None or steps_per_epoch is None:
            raise ValueError("OneCycleLR needs total_steps, or epochs and steps_per_epoch")
        total_steps = epochs * steps_per_epoch
    check_whole("total_steps", total_steps, at_least=2)
    check_positive("div_factor", div_factor)
    check_positive("final_div_factor", final_div_factor)
    base_lr = max_lr / div_factor
    anneal: Anneal = "cosine" if anneal_strategy == "cos" else "linear"
    momentum = (base_momentum, max_momentum) if cycle_momentum else None
    return one_cycle(base_lr, max_lr, total_steps, base_lr / final_div_factor, pct_start, anneal, three_phase, momentum)


@source(PREFIX + "CosineAnnealingWarmRestarts")
def cosine_annealing_warm_restarts(
    T_0: int,  # noqa: N803 (torch's names)
    T_mult: int = 1,  # noqa: N803
    eta_min: float = 0.0,
    base_lr: float = 1e-3,
) -> CosineRestarts:
    check_whole("T_0", T_0)
    check_whole("T_mult", T_mult)
    return cosine_restarts(eta_min, base_lr, T_0, T_mult)


@source(PREFIX + "CosineAnnealingLR")
def cosine_annealing_lr(T_max: int, eta_min: float = 0.0, base_lr: float = 1e-3) -> Cosine:  # noqa: N803
    """After ``T_max`` it goes up again."""
    check_whole("T_max", T_max)
    return Cosine(base_lr=eta_min, max_lr=base_lr, iterations=T_max, wave=True)


@source(PREFIX + "StepLR")
def step_lr(step_size: int, gamma: float = 0.1, base_lr: float = 1e-3) -> Exponential:
    check_whole("step_size", step_size)
    return step(base_lr, gamma, every=step_size)


@source(PREFIX + "MultiStepLR")
def multi_step_lr(milestones: Sequence[int], gamma: float = 0.1, base_lr: float = 1e-3) -> Piecewise:
    """In any order; one that is given twice counts twice, at 0 it counts from the start, and below 0 never."""
    for milestone in milestones:
        check_whole("a milestone", milestone, at_least=-LAST)
    check_lr("gamma", gamma)
    boundaries = sorted({milestone for milestone in milestones if milestone >= 0})
    drops = (sum(0 <= milestone <= boundary for milestone in milestones) for boundary in boundaries)
    return piecewise(boundaries, [base_lr, *(base_lr * gamma**times for times in drops)])


@source(PREFIX + "ExponentialLR")
def exponential_lr(gamma: float, base_lr: float = 1e-3) -> Exponential:
    return exponential(base_lr, gamma)


@source(PREFIX + "PolynomialLR")
def polynomial_lr(total_iters: int = 5, power: float = 1.0, base_lr: float = 1e-3) -> Schedule:
    check_whole("total_iters", total_iters, at_least=0)
    return fixed(base_lr) if power == 0 or total_iters == 0 else polynomial(0.0, base_lr, total_iters, power)


@source(PREFIX + "LinearLR")
def linear_lr(
    start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: int = 5, base_lr: float = 1e-3
) -> Schedule:
    check_positive("start_factor", start_factor, at_most=1)
    if not 0 <= end_factor <= 1:
        raise ValueError(f"end_factor must be from 0 to 1, got {end_factor!r}")
    check_whole("total_iters", total_iters, at_least=0)
    if total_iters == 0:  # it sets its first value, and no step changes that
        return fixed(base_lr * start_factor)
    return Phases(knots=(0, total_iters), values=(base_lr * start_factor, base_lr * end_factor), shapes=("linear",))


@source(PREFIX + "ConstantLR")
def constant_lr(factor: float = 1 / 3, total_iters: int = 5, base_lr: float = 1e-3) -> Piecewise:
    check_positive("factor", factor, at_most=1)
    check_whole("total_iters", total_iters, at_least=0)
    if total_iters == 0:
        return fixed(base_lr * factor)
    return piecewise([total_iters], [base_lr * factor, base_lr])


@source(PREFIX + "LambdaLR")
def lambda_lr(lr_lambda: str | Scale, base_lr: float = 1e-3) -> Schedule:
    """A factor of the optimizer's learning rate, a Python function of the step or the text of one."""
    _check_one_group(lr_lambda=lr_lambda)
    return Scaled(base_lr, function_of("lr_lambda", lr_lambda))


@source(PREFIX + "MultiplicativeLR")
def multiplicative_lr(lr_lambda: str | Scale, base_lr: float = 1e-3) -> Schedule:
    """A factor of the learning rate of the step before, a Python function of the step or the text of one."""
    _check_one_group(lr_lambda=lr_lambda)
    return multiplied(base_lr, function_of("lr_lambda", lr_lambda))


@source(PREFIX + "ReduceLROnPlateau")
def reduce_lr_on_plateau(**_: object) -> Schedule:
    """It follows a metric."""
    raise ValueError("ReduceLROnPlateau follows a metric: what it does is not known before the training")


@source(PREFIX + "SequentialLR")
def sequential_lr(schedulers: Sequence[Any], milestones: Sequence[int], base_lr: float = 1e-3) -> Schedule:
    """One after another, each from its own step 0.

    OneCycleLR, and a CyclicLR that is made first, replace the learning rate from which those made after them start, and
    from which whichever of them is first begins.
    """
    check_listed("schedulers", schedulers)
    begins = begins_of(milestones, len(schedulers))
    made = [name_of(part, "torch") for part in schedulers]
    check_lengths(made)
    if {name.removeprefix(PREFIX) for name, _ in made} & {*OF_OTHERS, "MultiplicativeLR"}:
        return nested("SequentialLR", {"schedulers": schedulers, "milestones": milestones}, base_lr)
    initial, starts = base_lr, []
    for number, (name, params) in enumerate(made):
        if name == PREFIX + "CyclicLR" and number == 0:
            initial = params.get("base_lr", initial)
        if name == PREFIX + "OneCycleLR" and "max_lr" in params:
            _check_one_group(max_lr=params["max_lr"])
            initial = params["max_lr"] / params.get("div_factor", 25.0)
        starts.append(initial)
    active = sum(milestone <= 0 for milestone in milestones)
    if made[active][0].removeprefix(PREFIX) in MULTIPLY:
        starts[active] = initial
    parts = [
        read_part({name: params}, "torch", base_lr=start)
        for (name, params), start in zip(_sharing(made), starts, strict=True)
    ]
    if isinstance(wave := parts[active], Cosine) and wave.max_lr != initial:
        # it falls from what it finds, and after its minimum rises to what it was made with
        fall, half = replace(wave, max_lr=initial), int(wave.iterations)
        parts[active] = in_sequence([fall, Moved(wave, by=half)], [0, half])
    return in_sequence(parts, begins)


def _check_one_group(**values: object) -> None:
    """Raise ValueError where a value is a list, as torch takes one for the parameter groups."""
    for name, value in values.items():
        if isinstance(value, list | tuple):
            raise ValueError(
                f"{name} is a list, one value for each parameter group, but a schedule belongs to one group: give "
                f"the value of the group that you mean, not {value!r}"
            )


def _sharing(made: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """OneCycleLR keeps its bounds in the optimizer, where the last one that is made replaces those of the others."""
    cycles = [params for name, params in made if name == PREFIX + "OneCycleLR"]
    bounds = {name: value for name, value in cycles[-1].items() if name in KEPT} if cycles else {}
    return [
        (name, {word: value for word, value in params.items() if word not in KEPT} | bounds)
        if name == PREFIX + "OneCycleLR"
        else (name, params)
        for name, params in made
    ]


@source(PREFIX + "ChainedScheduler")
def chained_scheduler(schedulers: Sequence[Any], base_lr: float = 1e-3) -> Schedule:
    """All in the same step, each beginning with the learning rate that those before it left."""
    check_listed("schedulers", schedulers)
    made = [name_of(part, "torch") for part in schedulers]
    check_lengths(made)
    names = [name.split(".")[-1] for name, _ in made]
    if {*OF_OTHERS} & {*names} or any(name not in MULTIPLY for name in names[:-1]) or names[1:][-1:] == [BENDS]:
        return nested("ChainedScheduler", {"schedulers": schedulers}, base_lr)
    if names and names[-1] not in MULTIPLY:
        setter = read_part(schedulers[-1], "torch", base_lr=base_lr)  # it sets what the others have multiplied
        if names[-1] != "CyclicLR" or len(names) == 1:
            return setter
        # made after another, a CyclicLR leaves the optimizer's learning rate until its first step
        return in_sequence([fixed(base_lr), Moved(setter, by=1)], [0, 1])
    factors = [read_part(part, "torch", base_lr=1.0) for part in schedulers]
    return Product((fixed(base_lr), *factors))
