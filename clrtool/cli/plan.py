"""``clrtool plan``: bounds, or a schedule in another system's words -> a plan, code for it, or what is wrong with it.

Never imports torch.
"""

from __future__ import annotations

import json
import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from clrtool.cli.complete import runs
from clrtool.cli.console import Plain, show
from clrtool.errors import ConfigError, as_config_error
from clrtool.files import write_whole
from clrtool.report.programs.formats import FORMATS, write_plan
from clrtool.report.text.progress import say
from clrtool.words import nearest

if TYPE_CHECKING:
    from clrtool.cli.plan_source import Asked
    from clrtool.core.planning.plan import Plan

FOUND = 1
POLICY_HELP = "triangular, exp_range, one_cycle, cosine ...; a wrong name lists all.  [default: triangular2]"
FORMS = ("table", *FORMATS)
FROM_HELP = "Read a schedule of torch, keras, optax, transformers, deepspeed, timm, ignite ...; a wrong name lists all."


def _read_format(word: str) -> str:
    if word not in FORMS:
        raise typer.BadParameter(f"unknown format {word!r}; {nearest(word, FORMS)}")
    return word


Form = Annotated[str, typer.Option("--format", parser=_read_format, metavar="FORMAT", help=f"{', '.join(FORMS)}.")]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE|KEY=VALUE",
        autocompletion=runs,
        help="A run folder, a plan, a run's name, or a training's script or config; parameters of the schedule.",
    ),
]
StepsizeEpochs = Annotated[
    float | None, typer.Option(help="Half a cycle in epochs.  [default: 2 to 10, chosen for 4 cycles]")
]
Journal = Annotated[
    list[str] | None, typer.Option(metavar="LOW-HIGH/STEPSIZE:UNTIL", help="A stage in iterations. Repeatable.")
]
Source = Annotated[str | None, typer.Option("--from", metavar="SYSTEM:NAME", help=FROM_HELP)]
Optimizer = Annotated[str | None, typer.Option(metavar="NAME[:MOMENTUM]", help="With --lint: SGD, SGD:0.9, AdamW ...")]


def plan(  # an option that is not named below is read from the context, by its name
    context: typer.Context,
    words: Words = None,
    base_lr: Annotated[float | None, typer.Option(help="Lower bound, in place of a source.")] = None,
    max_lr: Annotated[float | None, typer.Option(help="Upper bound, in place of a source.")] = None,
    iterations_per_epoch: Annotated[int | None, typer.Option(help="Optimizer steps in an epoch.")] = None,
    policy: Annotated[str | None, typer.Option(help=POLICY_HELP)] = None,
    epochs: Annotated[float | None, typer.Option(help="Budget in epochs.  [default: 30, or the source's]")] = None,
    stepsize_epochs: StepsizeEpochs = None,
    cycles: Annotated[int | None, typer.Option(help="Whole cycles.  [default: 4, or near it]")] = None,
    warmup_epochs: Annotated[float | None, typer.Option(help="A straight rise from 0 in front.")] = None,
    momentum: Annotated[str | None, typer.Option(metavar="LOW,HIGH", help="Move it against the LR.")] = None,
    stage: Journal = None,
    curve: Annotated[Path | None, typer.Option(help="Read the bounds off a CSV file with lr and accuracy.")] = None,
    schedule: Source = None,
    iterations: Annotated[int | None, typer.Option(help="Length of training, with --from.")] = None,
    check: Annotated[bool, typer.Option("--lint", help="Name what will go wrong; exit code 1 if anything.")] = False,
    csv: Annotated[Path | None, typer.Option(help="With --lint: learning rates, one for each iteration.")] = None,
    stepped: Annotated[str, typer.Option(help="With --lint: scheduler.step() per iteration or epoch.")] = "iteration",
    optimizer: Optimizer = None,
    form: Form = "table",
    output: Annotated[Path | None, typer.Option("-o", help="Write to this file, not to stdout.")] = None,
    plain: Plain = False,
) -> None:
    """Plan a training schedule in whole cycles that end at base_lr, as a table, a file, or code for a framework.

    The bounds come from a run, whose curve is read again, from a plan file, from anybody's curve, or from three
    numbers. Options replace what the source planned.

    Examples: clrtool plan runs/digits --epochs 50 --format torch

    clrtool plan --base-lr 0.001 --max-lr 0.006 --iterations-per-epoch 500 --epochs 32 -o plan.json

    clrtool plan --curve range_test.csv --iterations-per-epoch 500

    clrtool plan --from torch:OneCycleLR max_lr=0.1 total_steps=30 --iterations 1410 --iterations-per-epoch 47 --lint

    clrtool plan --lint ds_config.json --iterations 1410 --iterations-per-epoch 47
    """
    from clrtool.cli.plan_source import Asked, make

    asked = Asked(words=words or (), options=context.params, schedule=schedule, iterations=iterations,
                  stages=stage or (), csv=csv, stepped=stepped, optimizer=optimizer)  # fmt: skip
    if not check and (csv is not None or optimizer is not None or stepped != "iteration"):
        raise ConfigError("--csv, --optimizer and --stepped need --lint: they say what is to be checked")
    if curve is not None:
        from clrtool.cli.plan_curve import with_bounds

        asked = with_bounds(asked, curve, form, to_file=output is not None, linted=check, plain=plain)
    if check:
        _lint(asked, form, output, plain=plain)
    _show(make(asked), asked.title, form, output, plain=plain)


def _lint(asked: Asked, form: str, output: Path | None, *, plain: bool) -> NoReturn:
    from clrtool.cli.plan_source import lint

    if output is not None:
        raise ConfigError("--lint prints what it finds: leave out -o")
    findings = lint(asked)
    if form == "json":
        sys.stdout.write(json.dumps({"findings": [vars(finding) for finding in findings]}, indent=2) + "\n")
    elif form != "table":
        raise ConfigError(f"--lint prints a table or json, not {form}")
    elif findings:
        from clrtool.report.text.tables import lint_table

        show(lint_table(findings, asked.title), plain=plain)
    else:
        say(f"{asked.title}: nothing found")
    raise typer.Exit(0 if all(finding.note for finding in findings) else FOUND)


def _show(made: Plan, title: str, form: str, output: Path | None, *, plain: bool) -> None:
    if output is not None:
        form = _form_of(output, form)
    if form == "table":
        from clrtool.report.text.tables import plan_table

        show(plan_table(made, title), plain=plain)
        return
    blocks = write_plan(made, form)
    if output is None:
        with as_config_error():
            sys.stdout.writelines(blocks)
        return
    write_whole(output, blocks)
    say(f"{output}: written")


def _form_of(output: Path, form: str) -> str:
    """A file is for programs: its ending says which format, and an option may not contradict it."""
    ending = output.suffix.lower()
    allowed = _formats_in(ending)
    if form == "table" and allowed and ending != ".py":
        return allowed[0]
    if form not in allowed:
        option = "" if form == "table" else f" and --format {form}"
        endings = dict.fromkeys(chain(*FORMATS.values()))
        valid = "; ".join(f"{ending} for {', '.join(_formats_in(ending))}" for ending in endings)
        raise ConfigError(f"-o {output}{option}: the ending and --format must agree: {valid}")
    return form


def _formats_in(ending: str) -> list[str]:
    return [name for name, endings in FORMATS.items() if ending in endings]
