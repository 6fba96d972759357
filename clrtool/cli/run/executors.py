"""Which executor a command asks for, and the words with which a process of clrtool starts others of its kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clrtool.cli.run.executor import Executor
from clrtool.cli.run.local_processes import LocalProcesses, threads_of
from clrtool.cli.run.seed_share import SeedShare
from clrtool.cli.run.spec import RunSpec
from clrtool.cli.run.torchrun import check_alone
from clrtool.core.planning.sweep_size import SEEDS
from clrtool.errors import ConfigError
from clrtool.words import argument, shell_command

if TYPE_CHECKING:
    import typer

# Options that say what is done with a measurement, and not how it is made.
NO_MEASURE = {"dry", "fresh", "write", "check", "tolerance", "as_json", "quiet", "plain", "verbose"}
# Options that are for the process which starts the others.
OURS = NO_MEASURE | {"output", "jobs", "threads", "seed_shard", "ray", "ray_gpus"}
# Options with which shards are merged as they were measured.
MERGED = {"allow_import", "download", "device", "on_oom", "threads", "checkpoint_every"}


def choose_executor(
    context: typer.Context, spec: RunSpec, share: SeedShare, jobs: int, ray: str | None, ray_gpus: float | None
) -> tuple[RunSpec, Executor]:
    """What ``--jobs`` and ``--ray`` ask for, and the spec with the threads of each process."""
    if ray_gpus is not None and ray is None:
        raise ConfigError(f"--ray-gpus {ray_gpus:g} is for tasks of Ray: give --ray too")
    if jobs > 1 or ray is not None or share.shards:
        check_alone("rangetest with --jobs, --ray or --seed-shard")
    if ray is not None and (jobs > 1 or share.shards):
        raise ConfigError("--ray distributes the seeds itself: leave out --jobs and --seed-shard")
    workers = min(jobs, max(1, share.count(most_seeds(spec))))
    deterministic = spec.options.deterministic
    spec = replace(spec, threads=threads_of(workers, spec.threads, deterministic=deterministic, display=spec.display))
    if ray is not None:
        from clrtool.cli.run.ray_tasks import RayTasks

        return spec, RayTasks(spec, ray, ray_gpus)
    if workers == 1:
        return spec, Executor(spec)
    threads = [] if spec.threads is None else ["--threads", str(spec.threads)]
    return spec, LocalProcesses(spec, [*command_of(context, share, OURS), *threads, "--json"], workers)


def most_seeds(spec: RunSpec) -> int:
    """The seeds that are swept; where their number is ``auto``, the most that there can be."""
    sweep = spec.config.sweep
    if sweep.seeds != "auto":
        return sweep.seeds
    return 1 if sweep.races else SEEDS


def command_of(context: typer.Context, share: SeedShare, without: set[str]) -> list[str]:
    """The words of a command that measures a share, with all options that were given but for some."""
    shard = [] if share.shard is None else ["--seed-shard", str(share.shard)]
    words = [context.params["config"], *(context.params["overrides"] or ())]
    return ["rangetest", *words, *passed_on(context, without), *shard, "-o", str(share.run)]


def merge_command(context: typer.Context, spec: RunSpec, share: SeedShare) -> str:
    """The command that merges the shards of a test: it may run the same code, and finds it in the same places."""
    without = {str(option.name) for option in context.command.params} - MERGED
    is_elsewhere = spec.config.factories() and spec.options.folder.resolve() != Path.cwd()
    place = ["--config", str(spec.path)] if is_elsewhere else []
    return shell_command("clrtool", "merge", argument(share.run), *passed_on(context, without), *place)


def passed_on(context: typer.Context, without: set[str]) -> list[str]:
    """The options that were given, as words."""
    words: list[str] = []
    for option in context.command.params:
        given: Any = context.params.get(str(option.name))
        if option.param_type_name != "option" or option.name in without or not given:
            continue
        if given is True:
            words += [option.opts[0]]
        elif given != option.get_default(context):
            values = given if isinstance(given, list | tuple) else [given]
            words += [word for value in values for word in (option.opts[0], str(value))]
    return words
