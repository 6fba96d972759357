"""``clrtool plan --lint``: what will go wrong with a schedule, and how the command line says it is used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from clrtool.cli.plan_asked import Asked
from clrtool.cli.plan_source import make, schedule_params, trainings
from clrtool.core.planning.finding import OPTIMIZERS, Finding, Use
from clrtool.core.planning.lint import lint_plan, lint_source, lint_values
from clrtool.core.sources import groups_of
from clrtool.errors import ConfigError, as_config_error
from clrtool.report.records.curve_file import read_rates
from clrtool.words import nearest


def lint(asked: Asked) -> tuple[Finding, ...]:
    """What will go wrong with the schedule that was asked for. Raises ConfigError."""
    with as_config_error():
        use = _use(asked)
        if asked.csv is not None:
            if asked.source is not None or asked.schedule is not None or asked.stages:
                raise ConfigError("--csv holds the schedule that is checked: leave out every other source")
            return lint_values(read_rates(asked.csv), use)
        if asked.schedule is not None:
            return _lint(asked, asked.schedule, schedule_params(asked), asked.iterations, use)
        if asked.training is not None:
            return tuple(_lint_found(asked, use))
    return lint_plan(make(asked), use)


def _lint(asked: Asked, source: str, params: dict[str, Any], iterations: int | None, use: Use) -> tuple[Finding, ...]:
    """Of every parameter group, or of the one that was chosen."""
    chosen = asked.of_group(params, groups_of(source, params))
    return lint_source(source, chosen, iterations, asked.iterations_per_epoch, use)


def _lint_found(asked: Asked, use: Use) -> Iterator[Finding]:
    """What will go wrong with each schedule of a file, stepped and optimized as the file says."""
    for each in trainings(asked):
        of_file = replace(use, stepped=each.stepped or use.stepped)
        if use.optimizer is None:
            of_file = replace(of_file, optimizer=each.optimizer, momentum=each.momentum,
                              weight_decay=each.weight_decay)  # fmt: skip
        with as_config_error(f"{each.place}: "):
            findings = _lint(asked, each.source, dict(each.params), asked.iterations or each.iterations, of_file)
        for finding in findings:
            yield replace(finding, place=", ".join(filter(None, (each.place, finding.place))))


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
