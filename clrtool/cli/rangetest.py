"""``clrtool rangetest``: a config and a folder -> a run that is measured, gone on with or shown again."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clrtool.cli.complete import configs
from clrtool.cli.console import Plain, draw, say, show
from clrtool.cli.drift import Keeper
from clrtool.cli.dry_run import dry_run
from clrtool.cli.run.executors import OURS, Workers, command_of, measure_with, most_seeds, run_if_several, workers_of
from clrtool.cli.run.pipeline import is_complete, measure, measure_share
from clrtool.cli.run.sharding import Share, job_of_parent, read_shard
from clrtool.cli.run.signals import Signals
from clrtool.cli.run.spec import CHECKPOINTS, Job
from clrtool.cli.run.torchrun import check_alone, leading
from clrtool.errors import ConfigError, Interrupted

if TYPE_CHECKING:
    from clrtool.core.results.record import RunRecord

INCONCLUSIVE = 3


class OnOom(StrEnum):
    """What to do where a batch does not fit into memory."""

    stop = "stop"
    accumulate = "accumulate"


CONFIG_HELP = "A YAML file, or the name of a shipped config such as digits."
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values over those of the file: sweep.epochs=2")
]
More = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG | KEY=VALUE]...", help="Values over those of the file: sweep.epochs=2; more configs"
    ),
]
Jobs = Annotated[int, typer.Option(min=1, max=256, help="Processes that share the seeds, or the configs.")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=4096, help="Of each process on a CPU.  [default: torch's; with --jobs J, cores / J]"),
]
SeedShard = Annotated[
    str | None,
    typer.Option(
        metavar="K/N|slurm", help="Sweep every Nth seed, the Kth first, K from 1; slurm: by the array's task."
    ),
]
Ray = Annotated[str | None, typer.Option("--ray", metavar="ADDRESS|local", help="A task of Ray for each seed.")]
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
Device = Annotated[str, typer.Option(help="auto (CUDA if there is any), cpu, cuda or cuda:N.")]
Download = Annotated[bool, typer.Option("--download", help="Let torchvision fetch a dataset.")]
Json = Annotated[bool, typer.Option("--json", help="Print result.json on stdout and nothing else.")]
Quiet = Annotated[bool, typer.Option("-q", help="No progress.")]
Every = Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Between two checkpoints.")]


def rangetest(
    context: typer.Context,
    config: Annotated[str, typer.Argument(help=CONFIG_HELP, autocompletion=configs)],
    overrides: More = None,
    output: Annotated[Path | None, typer.Option("-o", help="The run folder.  [default: runs/<config name>]")] = None,
    seeds: Annotated[int | None, typer.Option(help="Sweeps with different seeds; short for sweep.seeds=N.")] = None,
    jobs: Jobs = 1,
    threads: Threads = None,
    seed_shard: SeedShard = None,
    ray: Ray = None,
    device: Device = "auto",
    verify: Verify = False,
    dry: Annotated[bool, typer.Option("--dry-run", "-n", help="Tell what it would take, and write nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace what the run folder holds.")] = False,
    download: Download = False,
    allow_import: AllowImport = None,
    deterministic: Deterministic = False,
    on_oom: OnOomOption = OnOom.stop,
    checkpoint_every: Every = 15,
    write: Write = None,
    check: Check = None,
    tolerance: Tolerance = None,
    as_json: Json = False,
    quiet: Quiet = False,
    plain: Plain = False,
) -> None:
    """Sweep the learning rate over a few epochs and read base_lr and max_lr off the held-out accuracy.

    Writes config.yaml, curve.csv, result.json and two pictures with their texts into the run folder. The same command
    goes on where it was interrupted or killed, and shows a finished run again. Exit code 3: the curve does not show
    both bounds. --seed-shard leaves its seeds in shards/K-of-N of the run folder, for clrtool merge.

    Examples: clrtool rangetest digits sweep.epochs=2 --seeds 5 -o runs/short

    clrtool rangetest mine.yaml --check mine.bounds.json

    clrtool rangetest mine.yaml --seeds 16 --jobs 4

    torchrun --nproc-per-node 4 -m clrtool rangetest mine.yaml
    """
    run_if_several(context, [config, *(overrides or ())], output)
    path, wishes, share = _asked(config, overrides, seeds, output, seed_shard)
    job = make_job(path, wishes, share.folder, context.obj, device=device, allow_import=allow_import, download=download,
                   deterministic=deterministic, every=checkpoint_every, on_oom=on_oom, fresh=fresh,
                   quiet=quiet or as_json, plain=plain)  # fmt: skip
    workers = workers_of(context, job, share, jobs, threads, ray)
    if dry:
        dry_run(job, path, wishes, 1 if workers is None else workers.jobs, verify=verify, as_json=as_json)
        return
    _run(context, job, path, wishes, workers, Keeper(job, write, check, tolerance, [config, *wishes]))


def _asked(
    config: str, overrides: Sequence[str] | None, seeds: int | None, output: Path | None, seed_shard: str | None
) -> tuple[Path, list[str], Share]:
    """The file of the config, the values over its own, and the seeds and the folder of the process."""
    from clrtool.config.file import find_config, run_name

    path = find_config(config)
    wishes = [*(overrides or ()), *([f"sweep.seeds={seeds}"] if seeds is not None else ())]
    return path, wishes, Share(output or Path("runs") / run_name(path), read_shard(seed_shard), job_of_parent())


def _run(
    context: typer.Context, job: Job, path: Path, wishes: Sequence[str], workers: Workers | None, keeper: Keeper
) -> None:
    """The whole test, in this process, in several or by ranks; or a share of its seeds."""
    if workers is not None or job.share is not None:
        check_alone("rangetest with --jobs, --ray or --seed-shard")
    if job.share is not None:
        _run_share(context, job, path, wishes, workers)
        return
    verify, as_json = bool(context.params["verify"]), bool(context.params["as_json"])
    with leading(job, path, wishes, verify=verify) as leads:
        if leads:
            _run_whole(job, path, wishes, workers, keeper, verify=verify, as_json=as_json)


def _run_whole(
    job: Job, path: Path, wishes: Sequence[str], workers: Workers | None, keeper: Keeper, *, verify: bool, as_json: bool
) -> None:
    """Measure what is not measured yet, show it, and keep what is recommended."""
    keeper.before()
    record = run(job, path, wishes, workers, verify=verify)
    show_run(record, job, as_json=as_json)
    keeper.after(record)
    if record.bounds.verdict.word == "inconclusive":
        raise typer.Exit(INCONCLUSIVE)


def _run_share(context: typer.Context, job: Job, path: Path, wishes: Sequence[str], workers: Workers | None) -> None:
    """The seeds of a share, to which other processes have the rest."""
    from clrtool.config.file import located
    from clrtool.report.run import open_run

    share, params = job.share, context.params
    assert share is not None
    if params["verify"] or params["write"] or params["check"]:
        raise ConfigError("--verify, --write and --check are about the whole test: give them after clrtool merge")
    if not share.count(most_seeds(job)):
        say(f"no seed is left for shard {share.shards[-1]}", quiet=job.quiet)
    else:
        open_run(job.folder, job.settings, fresh=job.fresh)
        with alone(job), located(path, wishes):
            if workers is not None:
                workers.run()
            measure_share(job, command_of(context, replace(share, shard=None), OURS))
        say(f"{job.folder}: its seeds are swept; when all shards are: clrtool merge {shlex.quote(str(share.run))}",
            quiet=job.quiet)  # fmt: skip
    if params["as_json"]:
        typer.echo(json.dumps({"status": "shard", "shard": str(share.shards[-1]), "folder": str(job.folder)}))


def run(job: Job, path: Path, wishes: Sequence[str], workers: Workers | None, *, verify: bool) -> RunRecord:
    """The run as it was finished before, or as it is measured now."""
    from clrtool.config.file import located
    from clrtool.report.run import open_run

    record = open_run(job.folder, job.settings, fresh=job.fresh)
    if record is not None and is_complete(job, record, verify=verify):
        verified = "; there is no bound to verify" if verify and record.plan is None else ""
        again = f"finished before with this config, shown again; --fresh runs it anew{verified}"
        say(f"{job.folder}: {again}", quiet=job.quiet)
        return record
    with alone(job), located(path, wishes):
        record = open_run(job.folder, job.settings, fresh=job.fresh)  # another process may have finished it meanwhile
        if workers is not None and record is None:
            return measure_with(workers, job, verify=verify)
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
    from clrtool.config.file import load_config

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


def show_run(record: RunRecord, job: Job, *, as_json: bool) -> None:
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
