"""``clrtool rangetest``: a config and a folder -> a run that is measured, gone on with or shown again."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clrtool.cli.complete import configs
from clrtool.cli.console import Plain, draw, readable_or_not, show
from clrtool.cli.drift import DriftCheck
from clrtool.cli.dry_run import dry_run
from clrtool.cli.run.executor import Executor
from clrtool.cli.run.executors import NO_MEASURE, choose_executor, most_seeds, passed_on
from clrtool.cli.run.folder import RunFolder
from clrtool.cli.run.many import configs_in, run_configs
from clrtool.cli.run.measure import measure, measure_share
from clrtool.cli.run.seed_share import SeedShare, read_shard, worker_of_parent
from clrtool.cli.run.shards import ShardWorker
from clrtool.cli.run.spec import BuildOptions, Display, RunSpec, read_spec
from clrtool.cli.run.torchrun import check_alone, leading
from clrtool.errors import ConfigError
from clrtool.report.text.progress import say

if TYPE_CHECKING:
    from clrtool.core.results.record import RunRecord
    from clrtool.core.results.shard import Shard

INCONCLUSIVE = 3


class OnOom(StrEnum):
    """What to do where a batch does not fit into memory."""

    stop = "stop"
    accumulate = "accumulate"


CONFIG_HELP = "A YAML file, or the name of a shipped config such as digits."
Config = Annotated[str, typer.Argument(help=CONFIG_HELP, autocompletion=configs)]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values over those of the file: sweep.epochs=2")
]
More = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG | KEY=VALUE]...", help="Values over those of the file: sweep.epochs=2; more configs"
    ),
]
Output = Annotated[Path | None, typer.Option("-o", help="The run folder.  [default: runs/<config name>]")]
Seeds = Annotated[int | None, typer.Option(help="Seeds of the sweeps and of the race; short for sweep.seeds=N.")]
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
Budget = Annotated[
    float | None,
    typer.Option(metavar="SHARE", help="Cost of the test at the most, in planned trainings; short for sweep.budget."),
]
Verify = Annotated[bool, typer.Option("--verify", hidden=True, help="The same as --budget 1.")]
Dry = Annotated[bool, typer.Option("--dry-run", "-n", help="Tell what it would take, and write nothing.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Replace what the run folder holds.")]
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


# fmt: off
def rangetest(  # an option that is not named below is read from the context, by its name
    context: typer.Context, config: Config, overrides: More = None, output: Output = None, seeds: Seeds = None,
    jobs: Jobs = 1, threads: Threads = None, seed_shard: SeedShard = None, ray: Ray = None, device: Device = "auto",
    budget: Budget = None, verify: Verify = False, dry: Dry = False, fresh: Fresh = False, download: Download = False,
    allow_import: AllowImport = None, deterministic: Deterministic = False, on_oom: OnOomOption = OnOom.stop,
    checkpoint_every: Every = 15, write: Write = None, check: Check = None, tolerance: Tolerance = None,
    as_json: Json = False, quiet: Quiet = False, plain: Plain = False,
) -> None:
    # fmt: on
    """Sweep the learning rate, race short runs at the rates that train, and recommend base_lr and max_lr.

    Writes config.yaml, curve.csv, result.json and two pictures with their texts into the run folder. The same command
    goes on where it was interrupted or killed, and shows a finished run again. Exit code 3: there are no
    bounds to recommend. --seed-shard leaves its seeds in shards/K-of-N of the run folder, for clrtool merge.

    Examples: clrtool rangetest digits sweep.epochs=2 --seeds 5 -o runs/short

    clrtool rangetest mine.yaml --check mine.bounds.json

    clrtool rangetest mine.yaml --seeds 16 --jobs 4

    torchrun --nproc-per-node 4 -m clrtool rangetest mine.yaml
    """
    words = [config, *(overrides or ())]
    if len(configs_in(words)) > 1:
        run_configs(context, configs_in(words), output)
    spec, share = _asked(context, words, read_shard(seed_shard))
    spec, executor = choose_executor(context, spec, share, jobs, ray)
    if dry:
        dry_run(RunFolder(spec, context.obj, executor), share)
        return
    drift = DriftCheck(spec, [*words, *passed_on(context, NO_MEASURE)], write, check, tolerance)
    if share.shards or executor.is_elsewhere:
        check_alone("rangetest with --jobs, --ray or --seed-shard")
    if share.shards:
        _run_share(context, spec, share, executor)
        return
    with leading(spec, context.obj) as rank:
        if rank.leads:
            drift.before()
            record = measure(RunFolder(rank.spec, context.obj, executor, rank.ranks))
            with readable_or_not():
                show_run(record, spec)
            drift.after(record)
            check_conclusive(record)


def check_conclusive(record: RunRecord) -> None:
    """Exit with 3 if the curve does not show both bounds."""
    if record.bounds.verdict.word == "inconclusive":
        raise typer.Exit(INCONCLUSIVE)


def _asked(context: typer.Context, words: Sequence[str], shard: Shard | None) -> tuple[RunSpec, SeedShare]:
    """What is to be measured, and the seeds and the folder of this process."""
    from clrtool.config.file import find_config, run_name

    path, params = find_config(words[0]), context.params
    budget = 1.0 if params["verify"] and params["budget"] is None else params["budget"]
    given = {"sweep.seeds": params["seeds"], "sweep.budget": budget}
    overrides = [*words[1:], *(f"{name}={value}" for name, value in given.items() if value is not None)]
    share = SeedShare(params["output"] or Path("runs") / run_name(path), shard, worker_of_parent())
    spec = read_spec(path, overrides, share.folder, build_options(params, path), display_of(params),
                     checkpoint_every=params["checkpoint_every"], accumulate=params["on_oom"] is OnOom.accumulate,
                     fresh=params["fresh"], threads=params["threads"])  # fmt: skip
    return spec, share


def build_options(params: Mapping[str, Any], path: Path) -> BuildOptions:
    """What a workload is built with, from the options of a command and the place of its config."""
    allowed = tuple(params["allow_import"] or ())
    deterministic = bool(params.get("deterministic"))
    return BuildOptions(params["device"], allowed, params["download"], path.parent, deterministic)


def display_of(params: Mapping[str, Any]) -> Display:
    """How a command tells what it does."""
    return Display(params["quiet"] or params["as_json"], params["plain"], params["as_json"])


def _run_share(context: typer.Context, spec: RunSpec, share: SeedShare, executor: Executor) -> None:
    """Train the seeds of a share, to which other processes have the rest."""
    params = context.params
    if params["write"] or params["check"]:
        raise ConfigError("--write and --check are about the whole test: give them after clrtool merge")
    share.refuse_links()
    folder = RunFolder(share.placed(spec), context.obj, ShardWorker(spec, share))
    if not share.count(most_seeds(spec)):
        folder.say(f"no seed is left for shard {share.shards[-1]}")
    else:
        folder.open()
        with folder.held():
            if executor.is_elsewhere:
                folder.begin_elsewhere()
                executor.train(folder.signals)
            measure_share(folder, share)
        again = f"clrtool merge {shlex.quote(str(share.run))}"
        folder.say(f"{spec.folder}: its seeds are swept; when all shards are: {again}")
    if spec.display.as_json:
        typer.echo(json.dumps({"status": "shard", "shard": str(share.shards[-1]), "folder": str(spec.folder)}))


def show_run(record: RunRecord, spec: RunSpec) -> None:
    """The result on stdout, and on stderr where it lies and what to type next."""
    from clrtool.report.records.run import to_json
    from clrtool.report.text.chart import range_test_chart
    from clrtool.report.text.tables import result_table

    if spec.display.as_json:
        typer.echo(to_json(record), nl=False)
        return
    if sys.stdout.isatty() and not spec.display.plain:
        draw(partial(range_test_chart, record))
    show(result_table(record, spec.folder.resolve().name), plain=spec.display.plain)
    say(f"in {spec.folder}/: curve.csv, result.json, range_test.png", quiet=spec.display.quiet)
    if record.plan is not None:
        say(_next(str(spec.folder)), quiet=spec.display.quiet)


def _next(folder: str) -> str:
    """What to type now."""
    run, report = shlex.quote(folder), shlex.quote(f"{folder}/report.html")
    steps = f"clrtool plan {run}", f"clrtool plan {run} --format torch", f"clrtool plot {run} -o {report}"
    return "next: " + "\n      ".join(steps)
