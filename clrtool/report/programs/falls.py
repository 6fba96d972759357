"""A plan as a scheduler that multiplies the learning rate, of timm and of composer: a warm-up, and a fall after it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from clrtool.core.planning.plan import Plan
from clrtool.core.schedules import Cosine, CosineRestarts, Exponential, Piecewise, Polynomial, Schedule
from clrtool.report.programs.code import Call, Name, source
from clrtool.report.programs.parts import plain, warmup_of
from clrtool.report.programs.words import Language, Words, header


def _timm(schedule: Schedule, iterations: int) -> Iterator[Words]:
    first = warmup_of(schedule, iterations)
    warm = {"warmup_t": first.length, "warmup_lr_init": first.start, "warmup_prefix": True} if first.length else {}
    for name, params in _timm_falls(plain(first.rest), iterations):
        yield name, params | warm


def _timm_falls(schedule: Schedule, iterations: int) -> Iterator[Words]:
    match schedule:
        case Cosine(base_lr=low, max_lr=high, iterations=n):
            yield "CosineLRScheduler", {"t_initial": n, "lr_min": low, "base_lr": high}
        case Polynomial(base_lr=low, max_lr=high, iterations=n, power=power):
            yield "PolyLRScheduler", {"t_initial": n, "power": power, "lr_min": low, "base_lr": high}
        case CosineRestarts(base_lr=low, max_lr=high, period=period, t_mul=mul, m_mul=decay, num_cycles=limit):
            cycles = {name: value for name, value in (("cycle_mul", mul), ("cycle_decay", decay)) if value != 1}
            length = period if schedule.falls == 1 else period / schedule.falls
            whole = {"t_initial": length, "lr_min": low, "cycle_limit": limit or iterations, "base_lr": high}
            yield "CosineLRScheduler", whole | cycles
        case Exponential(max_lr=lr, gamma=gamma, every=every, base_lr=None, cap=None):
            yield "StepLRScheduler", {"decay_t": every, "decay_rate": gamma, "base_lr": lr}
        case Piecewise(boundaries=(), values=(lr,)):
            yield "StepLRScheduler", {"decay_t": iterations, "base_lr": lr}
        case Piecewise(boundaries=steps, values=(first, second, *_)) if first:
            decay_t = [step + 1 for step in steps]  # it counts a milestone one iteration early
            yield "MultiStepLRScheduler", {"decay_t": decay_t, "decay_rate": second / first, "base_lr": first}


def _write_timm(plan: Plan, name: str, params: dict[str, Any]) -> str:
    lr = params.pop("base_lr")
    made = source(Call(name, (Name("optimizer"),), params | {"t_in_epochs": False}), indent=4)
    return f'''{header(plan)}from timm.scheduler import {name}


def make_scheduler(optimizer):
    """Call scheduler.step_update(updates) after every optimizer.step(), with the number of them so far.

    It multiplies the optimizer's learning rate: make it with lr={lr!r}.
    """
    return {made}
'''


def _composer(schedule: Schedule, iterations: int) -> Iterator[Words]:
    first = warmup_of(schedule, iterations)
    if first.start == 0:
        for name, params in _composer_falls(plain(first.rest), first.length):
            yield name, params | {"max_duration": f"{iterations}ba"}


def _composer_falls(schedule: Schedule, warmup: int) -> Iterator[Words]:
    warm, kind = ({"t_warmup": f"{warmup}ba"}, "WithWarmupScheduler") if warmup else ({}, "Scheduler")
    match schedule:
        case Cosine(base_lr=low, max_lr=lr, iterations=n) if lr:
            params = {"t_max": f"{warmup + n:.0f}ba", "alpha_f": low / lr, "base_lr": lr}
            yield f"CosineAnnealing{kind}", warm | params
        case Polynomial(base_lr=end, max_lr=start, iterations=n, power=1) if lr := start or end:
            params = {"alpha_i": start / lr, "alpha_f": end / lr, "t_max": f"{warmup + n:.0f}ba", "base_lr": lr}
            yield f"Linear{kind}", warm | params
        case Polynomial(base_lr=low, max_lr=lr, iterations=n, power=power) if lr:
            params = {"power": power, "t_max": f"{warmup + n:.0f}ba", "alpha_f": low / lr, "base_lr": lr}
            yield f"Polynomial{kind}", warm | params
        case Piecewise(boundaries=(), values=(lr,)):
            yield f"Constant{kind}", warm | {"base_lr": lr}
        case Piecewise(boundaries=steps, values=(lr, second, *_)) if lr:
            milestones = [f"{warmup + step}ba" for step in steps]
            yield f"MultiStep{kind}", warm | {"milestones": milestones, "gamma": second / lr, "base_lr": lr}
        case _ if not warmup:
            yield from _composer_repeats(schedule)


def _composer_repeats(schedule: Schedule) -> Iterator[Words]:
    """Those that composer has without a warm-up alone."""
    match schedule:
        case CosineRestarts(base_lr=low, max_lr=lr, period=period, t_mul=mul, falls=falls) if lr:
            yield (
                "CosineAnnealingWarmRestartsScheduler",
                {"t_0": f"{period / falls:.0f}ba", "t_mult": mul, "alpha_f": low / lr, "base_lr": lr},
            )
        case Exponential(max_lr=lr, gamma=gamma, every=every, staircase=True, base_lr=None, cap=None):
            yield "StepScheduler", {"step_size": f"{every:.0f}ba", "gamma": gamma, "base_lr": lr}
        case Exponential(max_lr=lr, gamma=gamma, every=every, base_lr=None, cap=None):
            yield "ExponentialScheduler", {"gamma": gamma, "decay_period": f"{every:.0f}ba", "base_lr": lr}


def _write_composer(plan: Plan, name: str, params: dict[str, Any]) -> str:
    lr, duration, batches = (params.pop(word, None) for word in ("base_lr", "max_duration", "batches_per_epoch"))
    duration = str(duration).strip()
    epoch = "" if batches is None else f" An epoch has {batches} batches."
    made = source(Call(name, (), params), indent=4)
    return f'''{header(plan)}from composer.optim import {name}


def make_scheduler():
    """Give it to composer.Trainer(schedulers=make_scheduler(), max_duration="{duration}", ...).{epoch}

    It multiplies the optimizer's learning rate: make it with lr={lr!r}.
    """
    return {made}
'''


TIMM = Language(
    system="timm",
    prefix="timm.scheduler.",
    find=_timm,
    write=_write_timm,
    instead="it has one cosine, power, line, staircase or exponential, its cosines again and again, and a straight "
    "warm-up before them; give its training loop what --format torch prints",
)
COMPOSER = Language(
    system="composer",
    prefix="composer.optim.",
    find=_composer,
    write=_write_composer,
    instead="it has one cosine, power, line, staircase or exponential, and for most a warm-up from 0; give "
    "Trainer(schedulers=..., step_schedulers_every_batch=True) what --format torch prints",
)
