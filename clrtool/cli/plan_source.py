"""Where a plan comes from: bounds, stages, a schedule in another system's words, or the file of a training."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clrtool.cli.plan_asked import NUMBERS, WISHES, Asked
from clrtool.cli.plan_bounds import from_bounds
from clrtool.core.planning.make import plan_stages
from clrtool.core.planning.plan import Plan, plan_from
from clrtool.errors import ConfigError, as_config_error
from clrtool.report.text.progress import say

if TYPE_CHECKING:
    from clrtool.report.trainings.found import Found

_NUMBER = r"([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)"
_STAGE = re.compile(rf"{_NUMBER}-{_NUMBER}/([0-9]{{1,12}}):([0-9]{{1,12}})")


def make(asked: Asked) -> Plan:
    """The plan that was asked for. Raises ConfigError."""
    with as_config_error():
        plan = _make(asked)
        return asked.of_group(plan, plan.groups)


def _make(asked: Asked) -> Plan:
    """For all parameter groups."""
    if asked.schedule is not None:
        asked.refuse(f"--from {asked.schedule} but with --lint: its own are NAME=VALUE", "base_lr", "max_lr")
        return _planned(asked, asked.schedule, schedule_params(asked), asked.iterations)
    if asked.training is not None:
        return _from_training(asked)
    if asked.iterations is not None:
        raise ConfigError("--iterations is for --from; the length of a plan is --epochs")
    if asked.stages and asked.source is not None:
        raise ConfigError(f"a plan comes from {asked.source} or from --stage, not from both")
    return _from_stages(asked) if asked.stages else from_bounds(asked)


def schedule_params(asked: Asked) -> dict[str, Any]:
    """The parameters of another system's schedule. Raises ConfigError for what it cannot be combined with."""
    what = f"--from {asked.schedule}"
    asked.refuse(what, *WISHES)
    if asked.source is not None or asked.stages:
        raise ConfigError(f"a plan comes from {asked.source or '--stage'} or from {what}, not from both")
    return asked.params()


def _planned(asked: Asked, source: str, params: Mapping[str, Any], iterations: int | None) -> Plan:
    return plan_from(source, params, iterations=iterations, iterations_per_epoch=asked.iterations_per_epoch)


def trainings(asked: Asked) -> tuple[Found, ...]:
    """The schedules in the file of a training, each said in the words of --from."""
    from clrtool.report.trainings.found import Known
    from clrtool.report.trainings.read import read_training

    assert asked.training is not None
    asked.refuse(f"{asked.training}, whose schedule is its own", *WISHES)
    if asked.stages:
        raise ConfigError(f"a plan comes from {asked.training} or from --stage, not from both")
    found = read_training(asked.training, Known(asked.iterations, asked.iterations_per_epoch, asked.params()))
    for each in found:
        say(f"{each.place}: read as {each.command}")
    return found


def _from_training(asked: Asked) -> Plan:
    asked.refuse(f"{asked.source} but with --lint: its own are NAME=VALUE", "base_lr", "max_lr")
    found = trainings(asked)
    if len(found) > 1:
        raise ConfigError(f"{asked.source} has {len(found)} schedules: choose one, with the options listed above")
    (only,) = found
    with as_config_error(f"{only.place}: "):
        return _planned(asked, only.source, only.params, asked.iterations or only.iterations)


def _from_stages(asked: Asked) -> Plan:
    asked.refuse("--stage", *{*NUMBERS, *WISHES} - {"iterations_per_epoch", "momentum"})
    stages = []
    for text in asked.stages:
        found = _STAGE.fullmatch(text.replace(",", ""))
        if found is None:
            raise ConfigError(f"--stage {text!r}: must look like 0.001-0.005/2000:16000, LOW-HIGH/STEPSIZE:UNTIL")
        low, high, stepsize, until = found.groups()
        stages.append((float(low), float(high), int(stepsize), int(until)))
    return plan_stages(stages, asked.iterations_per_epoch, **asked.momentum(), **asked.params())
