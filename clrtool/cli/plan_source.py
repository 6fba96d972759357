"""Where a plan comes from: a run, a file, numbers, stages, or a schedule in another system's words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clrtool.core.planning.finding import OPTIMIZERS, Finding, Use
from clrtool.core.planning.plan import Plan, make_plan, plan_from, plan_stages
from clrtool.core.planning.policies import POLICIES, find_policy
from clrtool.errors import ConfigError, as_config_error
from clrtool.report.text.progress import say
from clrtool.words import count, nearest

if TYPE_CHECKING:
    from clrtool.report.trainings.found import Found

# The options that a plan is made of, and those that say what it is to be like.
NUMBERS = ("base_lr", "max_lr", "iterations_per_epoch")
WISHES = ("policy", "epochs", "stepsize_epochs", "cycles", "warmup_epochs", "momentum")
_NUMBER = r"([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)"
_STAGE = re.compile(rf"{_NUMBER}-{_NUMBER}/([0-9]{{1,12}}):([0-9]{{1,12}})")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The command line of ``clrtool plan``; of its ``options`` those in ``NUMBERS`` and ``WISHES`` count."""

    words: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str | None = None
    iterations: int | None = None
    stages: Sequence[str] = ()
    csv: Path | None = None
    stepped: str = "iteration"
    optimizer: str | None = None
    batch_size: int | None = None

    @property
    def source(self) -> str | None:
        """The word that is no KEY=VALUE."""
        sources = [word for word in self.words if not is_pair(word)]
        if len(sources) > 1:
            raise ConfigError(f"plan takes one source, not {', '.join(sources)}; clrtool plot overlays several")
        return sources[0] if sources else None

    @property
    def title(self) -> str:
        if self.csv is not None:
            return str(self.csv)
        return Path(self.source).resolve().stem if self.source else self.schedule or "plan"

    @property
    def training(self) -> Path | None:
        """The file of a training that is the source, if it is one."""
        from clrtool.report.trainings.read import is_training

        file = Path(self.source) if self.source else None
        return file if file is not None and self.schedule is None and is_training(file) else None

    @property
    def iterations_per_epoch(self) -> int | None:
        return self.options.get("iterations_per_epoch")

    def params(self) -> dict[str, Any]:
        """The KEY=VALUE words, typed by YAML; a text that is no YAML value, such as a lambda, stays a text."""
        pairs = [word.split("=", 1) for word in self.words if word != self.source]
        foreign = self.schedule is not None or self.training is not None
        for key, _ in pairs:
            option = "stage" if key == "stages" else key
            if not foreign and option in (*NUMBERS, *WISHES, "stage"):
                raise ConfigError(f"{key}=...: give it as --{option.replace('_', '-')}")
            if sum(key == other for other, _ in pairs) > 1:
                raise ConfigError(f"{key}=... is given twice")
        return {key: _value(key, text) for key, text in pairs}

    def given(self) -> dict[str, Any]:
        """The options that were used."""
        return {name: self.options[name] for name in (*NUMBERS, *WISHES) if self.options.get(name) is not None}

    def refuse(self, what: str, *names: str) -> None:
        """Raise ConfigError if options were used that have no meaning with ``what``."""
        used = [f"--{name.replace('_', '-')}" for name in self.given() if name in names]
        if used:
            raise ConfigError(f"{', '.join(used)} has no meaning with {what}")


def is_pair(word: str) -> bool:
    """Whether a word is KEY=VALUE and not the name of a file that has a = in it."""
    if "=" not in word:
        return False
    try:
        return not Path(word).exists()
    except OSError:  # too long for a file
        return True


def plan_of(source: str) -> Plan:
    """The plan of a run or a file, as it was made. Raises ConfigError if there is none."""
    from clrtool.report.records.plan_file import read_plan
    from clrtool.report.records.run import find_run

    place = find_run(source)
    return read_plan(place / "result.json" if place.is_dir() else place)


def two_numbers(text: str, told: str, form: str) -> tuple[float, float]:
    """The numbers of an option LOW,HIGH; ``told`` is how a message names it."""
    try:
        low, high = map(float, text.split(","))
    except ValueError as error:
        raise ConfigError(f"{told}: must be two numbers, {form}") from error
    return low, high


def make(asked: Asked) -> Plan:
    """The plan that was asked for. Raises ConfigError."""
    with as_config_error():
        if asked.schedule is not None:
            asked.refuse(f"--from {asked.schedule} but with --lint: its own are NAME=VALUE", "base_lr", "max_lr")
            groups = _schedules(asked)
            if len(groups) > 1:
                raise ConfigError(
                    f"--from {asked.schedule} has a schedule for each of {len(groups)} parameter groups: choose one, "
                    f"group=1 to group={len(groups)}"
                )
            return _planned(asked, *groups.values())
        if asked.training is not None:
            return _from_training(asked)
        if asked.iterations is not None:
            raise ConfigError("--iterations is for --from; the length of a plan is --epochs")
        if asked.stages and asked.source is not None:
            raise ConfigError(f"a plan comes from {asked.source} or from --stage, not from both")
        return _from_stages(asked) if asked.stages else _from_bounds(asked)


def lint(asked: Asked) -> tuple[Finding, ...]:
    """What will go wrong with the schedule that was asked for. Raises ConfigError."""
    from clrtool.core.planning.lint import lint_plan, lint_values

    with as_config_error():
        use = _use(asked)
        if asked.csv is not None:
            if asked.source is not None or asked.schedule is not None or asked.stages:
                raise ConfigError("--csv holds the schedule that is checked: leave out every other source")
            from clrtool.report.records.curve_file import read_rates

            return lint_values(read_rates(asked.csv), use)
        if asked.schedule is not None:
            return tuple(_lint_groups(asked, use))
        if asked.training is not None:
            return tuple(_lint_found(asked, use))
    return lint_plan(make(asked), use)


def _schedules(asked: Asked) -> dict[int, tuple[str, dict[str, Any]]]:
    """Another system's schedule and its parameters, for each parameter group or the one that ``group=N`` says."""
    from clrtool.core.sources import groups_of

    assert asked.schedule is not None
    what = f"--from {asked.schedule}"
    asked.refuse(what, *WISHES)
    if asked.source is not None or asked.stages:
        raise ConfigError(f"a plan comes from {asked.source or '--stage'} or from {what}, not from both")
    params = asked.params()
    chosen = params.pop("group", None)
    groups = {number: (asked.schedule, each) for number, each in enumerate(groups_of(asked.schedule, params), 1)}
    if chosen is None:
        return groups
    if chosen not in groups:
        raise ConfigError(f"group={chosen}: {what} has {count(len(groups), 'parameter group')}, counted from 1")
    return {chosen: groups[chosen]}


def _planned(asked: Asked, schedule: tuple[str, dict[str, Any]]) -> Plan:
    return plan_from(*schedule, iterations=asked.iterations, iterations_per_epoch=asked.iterations_per_epoch)


def _lint_groups(asked: Asked, use: Use) -> Iterator[Finding]:
    """What will go wrong with the schedule of each parameter group."""
    from clrtool.core.planning.lint import lint_source

    groups = _schedules(asked)
    for number, (name, params) in groups.items():
        place = f"group {number}" if len(groups) > 1 else ""
        with as_config_error(f"{place}: " if place else ""):
            findings = lint_source(name, params, asked.iterations, asked.iterations_per_epoch, use)
        yield from (replace(finding, place=place) for finding in findings)


def _trainings(asked: Asked) -> tuple[Found, ...]:
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
    found = _trainings(asked)
    if len(found) > 1:
        raise ConfigError(f"{asked.source} has {len(found)} schedules: choose one, with the options listed above")
    length = asked.iterations or found[0].iterations
    with as_config_error(f"{found[0].place}: "):
        return plan_from(found[0].source, found[0].params, iterations=length,
                         iterations_per_epoch=asked.iterations_per_epoch)  # fmt: skip


def _lint_found(asked: Asked, use: Use) -> Iterator[Finding]:
    """What will go wrong with each schedule of a file, stepped and optimized as the file says."""
    from clrtool.core.planning.lint import lint_source

    for each in _trainings(asked):
        of_file = replace(use, stepped=each.stepped or use.stepped)
        if use.optimizer is None:
            of_file = replace(of_file, optimizer=each.optimizer, momentum=each.momentum,
                              weight_decay=each.weight_decay)  # fmt: skip
        length = asked.iterations or each.iterations
        with as_config_error(f"{each.place}: "):
            findings = lint_source(each.source, each.params, length, asked.iterations_per_epoch, of_file)
        yield from (replace(finding, place=each.place) for finding in findings)


def _from_stages(asked: Asked) -> Plan:
    asked.refuse("--stage", *{*NUMBERS, *WISHES} - {"iterations_per_epoch", "momentum"})
    stages = []
    for text in asked.stages:
        found = _STAGE.fullmatch(text.replace(",", ""))
        if found is None:
            raise ConfigError(f"--stage {text!r}: must look like 0.001-0.005/2000:16000, LOW-HIGH/STEPSIZE:UNTIL")
        low, high, stepsize, until = found.groups()
        stages.append((float(low), float(high), int(stepsize), int(until)))
    return plan_stages(stages, asked.iterations_per_epoch, **_momentum(asked), **asked.params())


def _from_bounds(asked: Asked) -> Plan:
    if asked.batch_size is not None and asked.source is None:
        raise ConfigError(
            "--batch-size needs a run whose batch sizes were measured: rangetest --vary data.batch_size=..."
        )
    before, known = _find_plan(asked) if asked.source is not None else (None, {})
    given = asked.given() | _momentum(asked) | asked.params()
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
    known = {"base_lr": plan.base_lr, "max_lr": plan.max_lr, "epochs": plan.epochs, "policy": plan.policy}
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


def _momentum(asked: Asked) -> dict[str, Any]:
    text = asked.options["momentum"]
    if text is None:
        return {}
    return {"momentum": two_numbers(text, f"--momentum {text!r}", "LOW,HIGH, such as 0.85,0.95")}


def _use(asked: Asked) -> Use:
    if asked.stepped not in ("iteration", "epoch"):
        raise ConfigError(f"--stepped {asked.stepped!r}: must be iteration or epoch")
    name, _, momentum = (asked.optimizer or "").partition(":")
    known = {optimizer.lower(): optimizer for optimizer in OPTIMIZERS}
    if name and name.lower() not in known:
        raise ConfigError(f"--optimizer {name!r} is none of torch.optim; {nearest(name, OPTIMIZERS)}")
    try:
        value = float(momentum or 0)
    except ValueError as error:
        raise ConfigError(f"--optimizer {asked.optimizer!r}: must look like SGD or SGD:0.9, or AdamW:0.05") from error
    # of a plan of clrtool's own the bounds are what it is made of, and nothing to hold it against
    foreign = asked.csv is not None or asked.schedule is not None or asked.training is not None
    low, high = (asked.options[name] if foreign else None for name in ("base_lr", "max_lr"))
    if low is not None and high is not None and low > high:
        raise ConfigError(f"--max-lr {high} must exceed --base-lr {low}")
    stepped: Any = asked.stepped
    kind = known.get(name.lower())
    option = "weight_decay" if kind == "AdamW" else "momentum"
    return Use(stepped=stepped, optimizer=kind, base_lr=low, max_lr=high, **{option: value})


def _value(key: str, text: str) -> Any:
    from clrtool.config.strict_yaml import read_yaml

    if text.lstrip().startswith("lambda"):
        return text
    document = read_yaml(text, f"command line, '{key}={text}'", at=(key,))
    if document.faults:
        raise ConfigError(*(f"{place}: {what}" for place, what in document.faults))
    return document.value
