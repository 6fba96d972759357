"""``clrtool plan`` from bounds: of a run, of a plan before, or three numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clrtool.cli.plan_asked import NUMBERS, Asked
from clrtool.core.planning.make import make_plan
from clrtool.core.planning.plan import Plan
from clrtool.core.planning.policies import POLICIES, find_policy
from clrtool.errors import ConfigError
from clrtool.report.text.progress import say


def plan_of(source: str) -> Plan:
    """The plan of a run or a file, as it was made. Raises ConfigError if there is none."""
    from clrtool.report.records.plan_file import read_plan
    from clrtool.report.records.run import find_run

    place = find_run(source)
    return read_plan(place / "result.json" if place.is_dir() else place)


def from_bounds(asked: Asked) -> Plan:
    """The plan of a run, a plan file, or three numbers. Raises ConfigError where numbers are missing."""
    if asked.batch_size is not None and asked.source is None:
        raise ConfigError(
            "--batch-size needs a run whose batch sizes were measured: rangetest --vary data.batch_size=..."
        )
    before, known = _find_plan(asked) if asked.source is not None else (None, {})
    given = asked.given() | asked.momentum() | asked.params()
    if before is not None and not given:
        return before
    if missing := [f"--{name.replace('_', '-')}" for name in NUMBERS if name not in known | given]:
        what = (
            "a run, a plan file, or three numbers" if asked.source is None else f"bounds, and {asked.source} has none"
        )
        raise ConfigError(f"plan needs {what}; missing: {', '.join(missing)}")
    return make_plan(**(known | given))


def _find_plan(asked: Asked) -> tuple[Plan | None, dict[str, Any]]:
    """The plan of a source and its numbers; of a run without a plan, the one number that it knows."""
    from clrtool.core.results.verification import read_again
    from clrtool.report.records.plan_file import read_plan
    from clrtool.report.records.run import find_run, read_run

    assert asked.source is not None
    place = find_run(asked.source)
    if asked.batch_size is not None:
        return None, _for_batch_size(place, asked.batch_size)
    if not place.is_dir():
        return _known(read_plan(place), asked)
    if (place / "vary.json").is_file():
        from clrtool.cli.plan_batch import chosen_numbers

        return None, chosen_numbers(place)
    run = read_run(place)
    bounds, length = read_again(run), {"iterations_per_epoch": run.sweep.iterations_per_epoch}
    if bounds.verdict.word == "inconclusive":
        say(f"warning: {place} is inconclusive: {bounds.advice[0].value}")
    if bounds.base_lr is None:
        return None, length
    read = {"base_lr": bounds.base_lr, "max_lr": bounds.max_lr}
    before, known = (None, length) if run.plan is None else _known(run.plan, asked)
    if (run.bounds.base_lr, run.bounds.max_lr) == (bounds.base_lr, bounds.max_lr):
        return before, known
    say(f"{place}: this version reads base_lr {bounds.base_lr:.3g} and max_lr {bounds.max_lr:.3g} off its curve")
    return None, known | read


def _for_batch_size(place: Path, batch_size: int) -> dict[str, Any]:
    """The numbers of a run for another batch size. Raises ConfigError where it has no bounds to start from."""
    from clrtool.cli.plan_batch import chosen_numbers, rescaled_numbers

    if not place.is_dir():
        raise ConfigError(f"--batch-size: {place} is a plan; give the run folder that it came from")
    if (place / "vary.json").is_file():
        return rescaled_numbers(place, batch_size, chosen_numbers(place))
    plan = plan_of(str(place))
    known = {"base_lr": plan.base_lr, "max_lr": plan.max_lr, "epochs": plan.epochs, "policy": plan.policy,
             "iterations_per_epoch": plan.iterations_per_epoch}  # fmt: skip
    return rescaled_numbers(place, batch_size, known)


def _known(before: Plan, asked: Asked) -> tuple[Plan, dict[str, Any]]:
    """What a new plan keeps of one before: its bounds and what was asked of it, as far as the new policy has that."""
    policy = asked.options["policy"] or before.policy
    if policy not in POLICIES and policy != before.policy:
        find_policy(policy)
    if (asked.given() or asked.params()) and (policy not in POLICIES or policy == "stages"):
        raise ConfigError(f"{asked.source} is a {before.policy} schedule with fixed numbers: give a --policy")
    known = {"base_lr": before.base_lr, "max_lr": before.max_lr, "policy": policy, "epochs": before.epochs}
    known |= {"iterations_per_epoch": before.iterations_per_epoch} | before.asked
    if policy != before.policy:
        # a gamma is fitted to its own policy, and the others have no cycles
        kept = {*NUMBERS, "policy", "epochs", "warmup_epochs", *POLICIES[policy].takes()} - {"gamma"}
        kept |= {"stepsize_epochs", "cycles"} if POLICIES[policy].in_cycles else set()
        known = {name: value for name, value in known.items() if name in kept}
    return before, {name: value for name, value in known.items() if value is not None}
