"""``clrtool rangetest``: a config and a folder -> a run that is measured, gone on with or shown again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from clrtool.cli.console import Format, Plain, readable_or_not
from clrtool.cli.drift import DriftCheck
from clrtool.cli.dry_run import dry_run
from clrtool.cli.options import (
    AllowImport,
    Budget,
    Check,
    Deterministic,
    Device,
    Download,
    Dry,
    Every,
    Fresh,
    From,
    Jobs,
    Json,
    More,
    OnOom,
    OnOomOption,
    OptionalConfig,
    Output,
    Quiet,
    Ray,
    RayGpus,
    Seeds,
    SeedShard,
    Threads,
    Tolerance,
    Vary,
    VaryGroups,
    Verbose,
    Verify,
    Write,
    build_options,
    display_of,
)
from clrtool.cli.outcome import check_conclusive, show_run
from clrtool.cli.run.executor import Executor
from clrtool.cli.run.executors import NO_MEASURE, choose_executor, merge_command, most_seeds, passed_on
from clrtool.cli.run.folder import RunFolder
from clrtool.cli.run.many import configs_in, run_configs
from clrtool.cli.run.measure import measure, measure_share
from clrtool.cli.run.seed_share import SeedShare, read_shard, worker_of_parent
from clrtool.cli.run.shards import ShardWorker
from clrtool.cli.run.spec import RunSpec, read_spec
from clrtool.cli.run.torchrun import leading, seated
from clrtool.errors import ConfigError
from clrtool.words import argument, shell_command

if TYPE_CHECKING:
    from clrtool.core.results.shard import Shard

# Configs of a folder that are named where none was given.
SHOWN_CONFIGS = 5


# fmt: off
def rangetest(  # an option that is not named below is read from the context, by its name
    context: typer.Context, config: OptionalConfig = None, overrides: More = None, output: Output = None,
    budget: Budget = None, vary: Vary = None, vary_groups: VaryGroups = False, start: From = None, dry: Dry = False,
    fresh: Fresh = False, allow_import: AllowImport = None, download: Download = False, checkpoint_every: Every = 15,
    verify: Verify = False, device: Device = "auto", on_oom: OnOomOption = OnOom.stop,
    deterministic: Deterministic = False, seeds: Seeds = None, jobs: Jobs = 1, threads: Threads = None,
    seed_shard: SeedShard = None, ray: Ray = None, ray_gpus: RayGpus = None, write: Write = None, check: Check = None,
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
    spec, executor = choose_executor(context, spec, share, jobs, ray, ray_gpus)
    if dry:
        _estimate(context, spec, share, executor)
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


def _estimate(context: typer.Context, spec: RunSpec, share: SeedShare, executor: Executor) -> NoReturn:
    """Say what the test would take, together with the other ranks that torchrun has started."""
    with seated(spec) as rank:
        dry_run(RunFolder(rank.spec, context.obj, executor, rank.ranks), share)
    raise typer.Exit


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
