"""``clrtool rangetest``: a config and a folder -> a run that is measured, gone on with or shown again."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clrtool.cli.complete import configs
from clrtool.cli.console import Plain, draw, say, show
from clrtool.cli.dry_run import dry_run
from clrtool.cli.keep import Keeper
from clrtool.cli.measure import CHECKPOINTS, Job, is_complete, measure
from clrtool.cli.ranks import leading
from clrtool.cli.signals import Signals
from clrtool.errors import Interrupted

if TYPE_CHECKING:
    from clrtool.core.record import RunRecord

INCONCLUSIVE = 3


class OnOom(StrEnum):
    """What to do where a batch does not fit into memory."""

    stop = "stop"
    accumulate = "accumulate"


CONFIG_HELP = "A YAML file, or the name of a shipped config such as digits."
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values over those of the file: sweep.epochs=2")
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Try other peaks and fixed rates by short runs that cost one training run.")
]
AllowImport = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Let the config import this code: 'pkg.module:*', 'pkg.*'. Repeatable."),
]
Deterministic = Annotated[bool, typer.Option("--deterministic", help="The same bytes each time, on the same machine.")]
OnOomOption = Annotated[OnOom, typer.Option(help="Where a batch does not fit: stop, or take it in micro-batches.")]
Write = Annotated[Path | None, typer.Option(metavar="FILE", help="Keep bounds and plan in FILE, for a repository.")]
Check = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Exit with 1 if FILE is stale, or what it recommends has drifted.")
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="With --write: the share by which a bound may change.  [default: the file's, or 0.15]"
    ),
]
Every = Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Between two checkpoints.")]


def rangetest(
    context: typer.Context,
    config: Annotated[str, typer.Argument(help=CONFIG_HELP, autocompletion=configs)],
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option("-o", help="The run folder.  [default: runs/<config name>]")] = None,
    seeds: Annotated[int | None, typer.Option(help="Sweeps with different seeds; short for sweep.seeds=N.")] = None,
    device: Annotated[str, typer.Option(help="auto (CUDA if there is any), cpu, cuda or cuda:N.")] = "auto",
    verify: Verify = False,
    dry: Annotated[bool, typer.Option("--dry-run", "-n", help="Tell what it would take, and write nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace what the run folder holds.")] = False,
    download: Annotated[bool, typer.Option("--download", help="Let torchvision fetch a dataset.")] = False,
    allow_import: AllowImport = None,
    deterministic: Deterministic = False,
    on_oom: OnOomOption = OnOom.stop,
    checkpoint_every: Every = 15,
    write: Write = None,
    check: Check = None,
    tolerance: Tolerance = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print result.json on stdout and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("-q", help="No progress.")] = False,
    plain: Plain = False,
) -> None:
    """Sweep the learning rate over a few epochs and read base_lr and max_lr off the held-out accuracy.

    Any model, data, optimizer and loss of torch, or factories of your own; another metric if the config names one.

    Writes config.yaml, curve.csv, result.json, range_test.png and schedule.png into the run folder. The same command
    goes on where it was interrupted or killed, and shows a finished run again. Exit code 3: the curve does not show
    both bounds.

    Example: clrtool rangetest digits sweep.epochs=2 --seeds 5 -o runs/short

    In CI: clrtool rangetest mine.yaml --check mine.bounds.json

    On several GPUs: torchrun --nproc-per-node 4 -m clrtool rangetest mine.yaml; data.batch_size is that of all.
    """
    from clrtool.config_file import find_config, run_name

    path, quiet = find_config(config), quiet or as_json
    wishes = [*(overrides or ()), *([f"sweep.seeds={seeds}"] if seeds is not None else ())]
    job = make_job(path, wishes, output or Path("runs") / run_name(path), context.obj, device=device,
                   allow_import=allow_import, download=download, deterministic=deterministic, every=checkpoint_every,
                   on_oom=on_oom, fresh=fresh, quiet=quiet, plain=plain)  # fmt: skip
    if dry:
        dry_run(job, path, wishes, verify=verify, as_json=as_json)
        return
    keeper = Keeper(job, write, check, tolerance, [config, *wishes])
    with leading(job, path, wishes, verify=verify) as leads:
        if leads:
            _lead(job, keeper, path, wishes, verify=verify, as_json=as_json)


def _lead(job: Job, keeper: Keeper, path: Path, wishes: Sequence[str], *, verify: bool, as_json: bool) -> None:
    """Measure what is not measured yet, show it, and keep what is recommended."""
    keeper.before()
    record = _run(job, path, wishes, verify=verify)
    _show(record, job, as_json=as_json)
    keeper.after(record)
    if record.bounds.verdict.word == "inconclusive":
        raise typer.Exit(INCONCLUSIVE)


def _run(job: Job, path: Path, wishes: Sequence[str], *, verify: bool) -> RunRecord:
    """The run as it was finished before, or as it is measured now."""
    from clrtool.config_file import located
    from clrtool.report.run import open_run

    record = open_run(job.folder, job.settings, fresh=job.fresh)
    if record is not None and is_complete(job, record, verify=verify):
        verified = "; there is no bound to verify" if verify and record.plan is None else ""
        again = f"finished before with this config, shown again; --fresh runs it anew{verified}"
        say(f"{job.folder}: {again}", quiet=job.quiet)
        return record
    with alone(job), located(path, wishes):
        record = open_run(job.folder, job.settings, fresh=job.fresh)  # another process may have finished it meanwhile
        return measure(job, record, verify=verify)


def make_job(
    path: Path,
    wishes: Sequence[str],
    folder: Path,
    signals: Signals | None,
    *,
    device: str,
    allow_import: Sequence[str] | None,
    download: bool,
    deterministic: bool,
    every: float,
    on_oom: OnOom,
    fresh: bool,
    quiet: bool,
    plain: bool,
) -> Job:
    """What a command was asked for, from its config and its options."""
    from clrtool.config_file import load_config

    if deterministic:  # cuBLAS reads it when it is loaded
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    source = {"device": device, "allow_import": allow_import or (), "download": download, "folder": path.parent,
              "deterministic": deterministic}  # fmt: skip
    return Job(load_config(path, wishes), folder, source, signals or Signals(), every, on_oom is OnOom.accumulate,
               fresh, quiet, plain)  # fmt: skip


@contextlib.contextmanager
def alone(job: Job) -> Iterator[None]:
    """Hold the run folder, without what killed runs have left; say what becomes of a run that is interrupted."""
    from clrtool.files import sweep_orphans
    from clrtool.report.lock import locked

    # stdout is for the result, whatever a user's factory prints
    with contextlib.redirect_stdout(sys.stderr), locked(job.folder):
        for folder in (job.folder, *(job.folder / name for name in CHECKPOINTS)):
            sweep_orphans(folder)
        try:
            yield
        except Interrupted:
            say(f"interrupted; what was measured is in {job.folder}/, and the same command goes on from there")
            raise


def _show(record: RunRecord, job: Job, *, as_json: bool) -> None:
    from clrtool.report.chart import range_test_chart
    from clrtool.report.run import to_json
    from clrtool.report.tables import result_table

    if as_json:
        typer.echo(to_json(record), nl=False)
        return
    if sys.stdout.isatty() and not job.plain:
        draw(partial(range_test_chart, record))
    show(result_table(record, job.folder.resolve().name), plain=job.plain)
    say(f"in {job.folder}/: curve.csv, result.json, range_test.png", quiet=job.quiet)
    if record.plan is not None:
        say(_next(str(job.folder)), quiet=job.quiet)


def _next(folder: str) -> str:
    """What to type now."""
    run, report = shlex.quote(folder), shlex.quote(f"{folder}/report.html")
    steps = f"clrtool plan {run}", f"clrtool plan {run} --format torch", f"clrtool plot {run} -o {report}"
    return "next: " + "\n      ".join(steps)
