"""``clrtool plan``: bounds, or a schedule in another system's words -> a plan, code for it, or what is wrong with it.

Never imports torch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from clrtool.cli.complete import formats, runs
from clrtool.cli.console import Plain, readable_or_not, show
from clrtool.cli.help import OUTPUT, rare
from clrtool.errors import ConfigError, as_config_error
from clrtool.files import write_whole
from clrtool.report.programs.formats import FORMATS, PACKAGES, write_plan
from clrtool.report.text.progress import say
from clrtool.words import nearest

if TYPE_CHECKING:
    from clrtool.cli.plan_asked import Asked
    from clrtool.core.planning.plan import Plan

FOUND = 1
FORMS = ("table", *FORMATS)
# Endings of files that are drawn, and not written as text.
PICTURES = (".png", ".svg", ".pdf")


def _read_format(word: str) -> str:
    if word not in FORMS:
        raise typer.BadParameter(f"unknown format {word!r}; {nearest(word, FORMS)}")
    return word


BOUNDS, SCHEDULE, TRANSLATE = "Bounds", "Schedule", "Other systems and lint"


def _number(group: str, metavar: str, told: str) -> Any:
    return typer.Option(metavar=metavar, help=told, rich_help_panel=group)


Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SOURCE] [KEY=VALUE]...",
        autocompletion=runs,
        help="Run, plan file, training script or config; parameters of the schedule.",
    ),
]
BaseLr = Annotated[float | None, _number(BOUNDS, "LR", "Lower bound, without a source.")]
MaxLr = Annotated[float | None, _number(BOUNDS, "LR", "Upper bound, without a source.")]
PerEpoch = Annotated[int | None, _number(BOUNDS, "N", "Optimizer steps per epoch.")]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size", metavar="N", min=1, help="Rescale the bounds of a run to another batch.", rich_help_panel=BOUNDS
    ),
]
Curve = Annotated[Path | None, _number(BOUNDS, "FILE", "CSV file of lr and accuracy to read bounds off.")]
Policy = Annotated[
    str | None,
    _number(SCHEDULE, "NAME", "Policy; a wrong name lists all.  [default: triangular2]"),
]
Epochs = Annotated[float | None, _number(SCHEDULE, "N", "Length of training.  [default: 30, or the source's]")]
StepsizeEpochs = Annotated[float | None, _number(SCHEDULE, "N", "Half a cycle.  [default: 2 to 10, for 4 cycles]")]
Cycles = Annotated[int | None, _number(SCHEDULE, "N", "Number of whole cycles.  [default: about 4]")]
Warmup = Annotated[float | None, _number(rare(SCHEDULE), "N", "Linear warm-up from 0, in epochs.")]
Momentum = Annotated[
    str | None, _number(rare(SCHEDULE), "LOW,HIGH", "Momentum range, cycled against the learning rate.")
]
Stages = Annotated[
    list[str] | None,
    _number(rare(SCHEDULE), "LOW-HIGH/STEPSIZE:UNTIL", "Stage of a schedule, in iterations. Repeatable."),
]
Source = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="SYSTEM:NAME",
        help="Schedule of torch, keras, optax, timm ...",
        rich_help_panel=TRANSLATE,
    ),
]
Iterations = Annotated[int | None, _number(TRANSLATE, "N", "Length of training, with --from.")]
Lint = Annotated[
    bool,
    typer.Option("--lint", help="Report what will go wrong; exit code 1 if so.", rich_help_panel=TRANSLATE),
]
Csv = Annotated[
    Path | None, _number(rare(TRANSLATE), "FILE", "Learning rates to lint, one per iteration; with --lint.")
]
Stepped = Annotated[
    str, _number(rare(TRANSLATE), "iteration|epoch", "Call of scheduler.step(), per iteration or epoch; with --lint.")
]
Optimizer = Annotated[
    str | None,
    _number(rare(TRANSLATE), "NAME[:VALUE]", "SGD:0.9, its momentum, AdamW:0.05, its weight decay ...; with --lint."),
]
Form = Annotated[
    str | None,
    typer.Option(
        "--format",
        parser=_read_format,
        metavar="FORMAT",
        help="table, json, csv, yaml, torch, timm, ignite ...",
        autocompletion=formats,
        rich_help_panel=OUTPUT,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Same as --format json.", rich_help_panel=OUTPUT)]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        metavar="FILE",
        help="File: .json .csv .yaml .py, or .png .svg .pdf.",
        rich_help_panel=OUTPUT,
    ),
]


# fmt: off
def plan(  # an option that is not named below is read from the context, by its name
    context: typer.Context, words: Words = None, base_lr: BaseLr = None, max_lr: MaxLr = None,
    iterations_per_epoch: PerEpoch = None, batch_size: BatchSize = None, curve: Curve = None, policy: Policy = None,
    epochs: Epochs = None, stepsize_epochs: StepsizeEpochs = None, cycles: Cycles = None, warmup_epochs: Warmup = None,
    momentum: Momentum = None, stage: Stages = None, schedule: Source = None, iterations: Iterations = None,
    check: Lint = False, csv: Csv = None, stepped: Stepped = "iteration", optimizer: Optimizer = None,
    form: Form = None, as_json: Json = False, output: Output = None, plain: Plain = False,
) -> None:
    # fmt: on
    """Plan a schedule in whole cycles: as a table, a file, or training code.

    Examples:
        clrtool plan digits --epochs 90 --format torch
        clrtool plan --base-lr 0.001 --max-lr 0.006 --iterations-per-epoch 500
        clrtool plan --from torch:OneCycleLR max_lr=0.1 total_steps=30 --lint

    The bounds come from a run, a plan file, the script or config of a training, a measured curve, or three numbers.
    Options replace what the source planned. --lint takes such a file too: clrtool plan --lint ds_config.json. A
    plan ends where a cycle ends, at base_lr. --batch-size needs batch sizes that rangetest --vary has measured.
    --from reads the schedule of another system: torch, keras, optax, transformers, deepspeed, timm, ignite and
    more; a wrong name lists all.
    """
    from clrtool.cli.plan_asked import Asked
    from clrtool.cli.plan_source import make

    asked = Asked(words=words or (), options=context.params, schedule=schedule, iterations=iterations,
                  stages=stage or (), csv=csv, stepped=stepped, optimizer=optimizer, batch_size=batch_size)  # fmt: skip
    if not check and (csv is not None or optimizer is not None or stepped != "iteration"):
        raise ConfigError("--csv, --optimizer and --stepped need --lint: they say what is to be checked")
    form = _wanted_form(form, as_json=as_json)
    if curve is not None:
        from clrtool.cli.plan_curve import with_bounds

        asked = with_bounds(asked, curve, form, to_file=output is not None, linted=check, plain=plain)
    if check:
        _lint(asked, form, output, plain=plain)
    _show(make(asked), asked.title, form, output, plain=plain)


def _wanted_form(form: str | None, *, as_json: bool) -> str:
    if as_json and form not in (None, "json"):
        raise ConfigError(f"--json and --format {form}: give one of them")
    return "json" if as_json else form or "table"


def _lint(asked: Asked, form: str, output: Path | None, *, plain: bool) -> NoReturn:
    from clrtool.cli.plan_lint import lint

    if output is not None:
        raise ConfigError("--lint prints what it finds: leave out -o")
    if form not in ("json", "table"):
        raise ConfigError(f"--lint prints a table or json, not {form}")
    findings = lint(asked)
    with readable_or_not():
        if form == "json":
            sys.stdout.write(json.dumps({"findings": [vars(finding) for finding in findings]}, indent=2) + "\n")
        elif findings:
            from clrtool.report.text.tables import lint_table

            show(lint_table(findings, asked.title), plain=plain)
        else:
            say(f"{asked.title}: nothing found")
    raise typer.Exit(0 if all(finding.note for finding in findings) else FOUND)


def _show(made: Plan, title: str, form: str, output: Path | None, *, plain: bool) -> None:
    if output is not None:
        _write(made, title, form, output)
    elif form == "table":
        from clrtool.report.text.tables import plan_table

        show(plan_table(made, title), plain=plain)
    else:
        with as_config_error():
            sys.stdout.writelines(_printed(made, form))


def _printed(made: Plan, form: str) -> Iterable[str]:
    """The plan in a format; in the words of another system they are run there first, where it is installed."""
    text = write_plan(made, form)
    if form not in PACKAGES:
        return text
    from clrtool.cli.trial import run_printed

    text = ["".join(text)]
    why_not = run_printed(made, form, *text)
    if why_not is not None:
        say(f"note: read back, but not run in {form}: {why_not}")
    return text


def _write(made: Plan, title: str, form: str, output: Path) -> None:
    """A picture, or a file for programs, by the ending of its name."""
    if output.suffix.lower() in PICTURES:
        if form != "table":
            raise ConfigError(f"-o {output} and --format {form}: a picture has no format; leave out --format")
        from clrtool.report import plots

        plots.save_figure(plots.plot_schedules({title: made}), output)
    else:
        write_whole(output, _printed(made, _form_of(output, form)))
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
        pictures = f"{', '.join(PICTURES)} for a picture"
        raise ConfigError(f"-o {output}{option}: the ending and --format must agree: {valid}; {pictures}")
    return form


def _formats_in(ending: str) -> list[str]:
    return [name for name, endings in FORMATS.items() if ending in endings]
