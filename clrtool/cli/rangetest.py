"""``clrtool rangetest``: a config and a folder -> a run that is measured, gone on with or shown again."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from clrtool.cli.complete import configs
from clrtool.cli.console import Format, Plain, draw, readable_or_not, show
from clrtool.cli.drift import DriftCheck
from clrtool.cli.dry_run import dry_run
from clrtool.cli.help import CI, DEVICE, MACHINES, OUTPUT, RUN, rare
from clrtool.cli.run.executor import Executor
from clrtool.cli.run.executors import NO_MEASURE, choose_executor, merge_command, most_seeds, passed_on
from clrtool.cli.run.folder import RunFolder
from clrtool.cli.run.many import configs_in, run_configs
from clrtool.cli.run.measure import measure, measure_share
from clrtool.cli.run.seed_share import SeedShare, read_shard, worker_of_parent
from clrtool.cli.run.shards import ShardWorker
from clrtool.cli.run.spec import BuildOptions, Display, RunSpec, read_spec
from clrtool.cli.run.torchrun import leading
from clrtool.errors import ConfigError
from clrtool.report.text.progress import say
from clrtool.words import argument, shell_command

if TYPE_CHECKING:
    from clrtool.core.results.record import RunRecord
    from clrtool.core.results.shard import Shard

INCONCLUSIVE = 3
# Configs of a folder that are named where none was given.
SHOWN_CONFIGS = 5


class OnOom(StrEnum):
    """What to do where a batch does not fit into memory."""

    stop = "stop"
    accumulate = "accumulate"


CONFIG_HELP = "YAML file, or a shipped config such as digits."
OVERRIDE_HELP = "Values such as optimizer=AdamW."
Config = Annotated[str, typer.Argument(metavar="CONFIG", help=CONFIG_HELP, autocompletion=configs)]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help=OVERRIDE_HELP)]
OptionalConfig = Annotated[
    str | None, typer.Argument(metavar="CONFIG", help=CONFIG_HELP, autocompletion=configs, show_default=False)
]
More = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG|KEY=VALUE]...", help="More configs; values such as optimizer=AdamW."),
]
Output = Annotated[
    Path | None, typer.Option("-o", metavar="DIR", help="Run folder.  [default: runs/CONFIG]", rich_help_panel=RUN)
]
Seeds = Annotated[
    int | None,
    typer.Option(metavar="N", help="Random seeds; short for sweep.seeds=N.", rich_help_panel=MACHINES),
]
Jobs = Annotated[
    int,
    typer.Option(metavar="N", min=1, max=256, help="Processes that share seeds or configs.", rich_help_panel=MACHINES),
]
Threads = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=4096,
        help="CPU threads per process.  [default: torch's; with --jobs N, cores / N]",
        rich_help_panel=rare(MACHINES),
    ),
]
SeedShard = Annotated[
    str | None,
    typer.Option(
        metavar="K/N|slurm",
        help="Run shard K of N: every Nth seed, from the Kth on; slurm takes both from the job array. Its results go "
        "to shards/K-of-N in the run folder, for clrtool merge.",
        rich_help_panel=rare(MACHINES),
    ),
]
Ray = Annotated[
    str | None,
    typer.Option("--ray", metavar="ADDRESS|local", help="Run each seed as a Ray task.", rich_help_panel=rare(MACHINES)),
]
Budget = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Cost limit, as a share of the planned training.",
        rich_help_panel=RUN,
    ),
]
Vary = Annotated[
    list[str] | None,
    typer.Option(
        "--vary",
        metavar="KEY=V1,V2",
        help="Race values of another key with the rate.",
        rich_help_panel=RUN,
    ),
]
From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="CHECKPOINT",
        help="Training under way to go on from, a file or folder that it saved; short for start=CHECKPOINT.",
        rich_help_panel=rare(RUN),
    ),
]
VaryGroups = Annotated[
    bool,
    typer.Option(
        "--vary-groups", help="Race a quarter and four times a group's lr_ratio too.", rich_help_panel=rare(RUN)
    ),
]
Verify = Annotated[bool, typer.Option("--verify", hidden=True, help="Same as --budget 1.")]
Dry = Annotated[
    bool,
    typer.Option("--dry-run", "-n", help="Estimate time, memory and disk; write nothing.", rich_help_panel=RUN),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Start over: replace the run folder's content.", rich_help_panel=RUN)
]
AllowImport = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Code that the config may import: 'pkg.module:*'.",
        rich_help_panel=RUN,
    ),
]
Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic", help="Get the same bytes each time on the same machine.", rich_help_panel=rare(DEVICE)
    ),
]
OnOomOption = Annotated[
    OnOom,
    typer.Option(
        metavar="stop|accumulate",
        help="Action when a batch does not fit into memory: stop, or split it into micro-batches.",
        rich_help_panel=rare(DEVICE),
    ),
]
Write = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Save bounds and plan, to be committed.", rich_help_panel=CI),
]
Check = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Exit with 1 if the saved bounds no longer hold.", rich_help_panel=CI),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        min=0,
        max=1,
        help="Share by which a bound may change; with --write.  [default: the file's, or 0.15]",
        rich_help_panel=rare(CI),
    ),
]
Device = Annotated[
    str,
    typer.Option(metavar="NAME", help="auto (CUDA if any), cpu, cuda:N.", rich_help_panel=DEVICE),
]
Download = Annotated[
    bool, typer.Option("--download", help="Let torchvision download the dataset.", rich_help_panel=RUN)
]
Json = Annotated[bool, typer.Option("--json", help="Print result.json and nothing else.", rich_help_panel=OUTPUT)]
Verbose = Annotated[
    bool,
    typer.Option("-v", "--verbose", help="Show the race, the sweep and the cost too.", rich_help_panel=OUTPUT),
]
Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", help="Show no progress, only the result.", rich_help_panel=OUTPUT)
]
Every = Annotated[
    float, typer.Option(min=0, metavar="SECONDS", help="Time between checkpoints.", rich_help_panel=rare(RUN))
]


# fmt: off
def rangetest(  # an option that is not named below is read from the context, by its name
    context: typer.Context, config: OptionalConfig = None, overrides: More = None, output: Output = None,
    budget: Budget = None, vary: Vary = None, vary_groups: VaryGroups = False, start: From = None, dry: Dry = False,
    fresh: Fresh = False, allow_import: AllowImport = None, download: Download = False, checkpoint_every: Every = 15,
    verify: Verify = False, device: Device = "auto", on_oom: OnOomOption = OnOom.stop,
    deterministic: Deterministic = False, seeds: Seeds = None, jobs: Jobs = 1, threads: Threads = None,
    seed_shard: SeedShard = None, ray: Ray = None, write: Write = None, check: Check = None,
    tolerance: Tolerance = None, verbose: Verbose = False, as_json: Json = False, quiet: Quiet = False,
    plain: Plain = False, form: Format = None,
) -> None:
    # fmt: on
    """Find base_lr and max_lr with an LR range test, and plan a schedule.

    Examples:
        clrtool rangetest digits
        clrtool rangetest mine.yaml --dry-run
        clrtool rangetest mine.yaml --vary optimizer.args.weight_decay=0,1e-4,1e-3

    First the learning rate is swept, then short runs at the best rates race. --budget 0.25, the default, lets all of
    it cost a quarter of the planned training; with --vary, of one or two keys that say what is trained, it is half for
    all their values. --allow-import is repeatable, and takes 'pkg.*' too.

    The run folder gets config.yaml, curve.csv, result.json and two pictures, each with a text that describes it. The
    same command, without --fresh, resumes an interrupted run, and shows a finished run again without training.

    Exit code 3 means that the test is inconclusive: there are no bounds to recommend, and the advice says what to
    change. All codes: 0 done, 1 drift found by --check, 2 wrong usage or config, 4 device, memory, disk or data
    missing, 75 run folder in use, 130 interrupted. Several GPUs: torchrun --nproc-per-node 4 -m clrtool rangetest X
    """
    words = [needed(config), *(overrides or ())]
    if vary or vary_groups:
        _race_values(context, words)
    if len(configs_in(words)) > 1:
        _run_all(context, configs_in(words), output)
    spec, share = _asked(context, words, read_shard(seed_shard))
    spec, executor = choose_executor(context, spec, share, jobs, ray)
    if dry:
        dry_run(RunFolder(spec, context.obj, executor), share)
        return
    drift = DriftCheck(spec, [*words, *passed_on(context, NO_MEASURE)], write, check, tolerance)
    if share.shards:
        _run_share(context, spec, share, executor)
    with leading(spec, context.obj) as rank:
        if rank.leads:
            drift.before()
            record = measure(RunFolder(rank.spec, context.obj, executor, rank.ranks))
            with readable_or_not():
                show_run(record, spec)
            drift.after(record)
            check_conclusive(record)


def _race_values(context: typer.Context, words: Sequence[str]) -> NoReturn:
    """Race the values of other keys with the rate, and nothing else."""
    from clrtool.cli.vary import vary

    if len(configs_in(words)) > 1:
        raise ConfigError(f"--vary takes one config, not {', '.join(configs_in(words))}")
    vary(_asked(context, words, None, "-vary")[0], context.obj, context.params)
    raise typer.Exit


def _run_all(context: typer.Context, configs: Sequence[str], output: Path | None) -> NoReturn:
    """Several configs, whose code is told even if nobody reads what became of them."""
    told, code = run_configs(context, configs, output)
    with readable_or_not():
        typer.echo(told)
    raise typer.Exit(code)


def needed(config: str | None) -> str:
    """The config that was given. Raises ConfigError without one, and names those that could be meant."""
    if config is not None:
        return config
    from clrtool.config.file import names_a_run

    here = sorted(path.name for path in Path().glob("*.y*ml") if path.suffix in (".yaml", ".yml") and names_a_run(path))
    found = [shell_command("clrtool", "rangetest", argument(name)) for name in here[:SHOWN_CONFIGS]]
    raise ConfigError(
        "rangetest needs a config. Try one of these:",
        *(found or ["clrtool init              write a config for the model and data in this folder"]),
        "clrtool rangetest digits  try it on handwritten digits: a second on a CPU, nothing to download",
    )


def check_conclusive(record: RunRecord) -> None:
    """Exit with 3 if the curve does not show both bounds."""
    if record.bounds.verdict.word == "inconclusive":
        raise typer.Exit(INCONCLUSIVE)


def _asked(
    context: typer.Context, words: Sequence[str], shard: Shard | None, ending: str = ""
) -> tuple[RunSpec, SeedShare]:
    """What is to be measured, and the seeds and the folder of this process, whose name has this ending."""
    from clrtool.config.file import find_config, run_name

    path, params = find_config(words[0]), context.params
    budget = 1.0 if params["verify"] and params["budget"] is None else params["budget"]
    given = {"sweep.seeds": params["seeds"], "sweep.budget": budget}
    if params["start"] is not None:  # quoted, for a folder may be called 500
        given["start"] = json.dumps(str(params["start"]))
    overrides = [*words[1:], *(f"{name}={value}" for name, value in given.items() if value is not None)]
    folder = params["output"] or Path("runs") / f"{run_name(path)}{ending}"  # a name that is no folder's needs -o
    share = SeedShare(folder, shard, worker_of_parent())
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
    quiet, verbose = params["quiet"] or params["as_json"], bool(params.get("verbose"))
    return Display(quiet, params["plain"], params["as_json"], verbose)


def _run_share(context: typer.Context, spec: RunSpec, share: SeedShare, executor: Executor) -> NoReturn:
    """Train the seeds of a share, to which other processes have the rest, and nothing else."""
    params = context.params
    if params["write"] or params["check"]:
        raise ConfigError("--write and --check need the whole test: run clrtool merge first")
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
        folder.say(f"{spec.folder}: shard finished; when all are: {merge_command(context, spec, share)}")
    if spec.display.as_json:
        typer.echo(json.dumps({"status": "shard", "shard": str(share.shards[-1]), "folder": str(spec.folder)}))
    raise typer.Exit


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
        typer.echo()
    table = result_table(record, spec.folder.resolve().name, verbose=spec.display.verbose)
    show(table, plain=spec.display.plain)
    say(f"in {spec.folder}/: curve.csv, result.json, range_test.png", quiet=spec.display.quiet)
    say(_next(record, spec.folder), quiet=spec.display.quiet)


def _next(record: RunRecord, folder: Path) -> str:
    """What to type now."""
    if record.plan is None:
        return "next: clrtool guide troubleshooting, which has an entry for every verdict and advice"
    run = argument(folder)
    steps = ("plan", run), ("plan", run, "--format", "torch"), ("plot", run, "-o", folder / "report.html")
    return "next: " + "\n      ".join(shell_command("clrtool", *step) for step in steps)
