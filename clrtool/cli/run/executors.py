"""Range tests that are shared out: to processes of this machine, or to tasks of Ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from clrtool.cli.run.local_pool import Jobs, threads_of
from clrtool.cli.run.pipeline import measure
from clrtool.cli.run.sharding import Share
from clrtool.cli.run.spec import Job
from clrtool.core.planning.sweep_size import SEEDS
from clrtool.core.shard import LackingError
from clrtool.errors import ConfigError

if TYPE_CHECKING:
    import typer

    from clrtool.core.results.record import RunRecord

# Options that are for the process which starts the others.
OURS = {
    "output", "jobs", "threads", "seed_shard", "ray", "verify", "fresh", "write", "check", "tolerance",
    "as_json", "quiet", "plain",
}  # fmt: skip


def run_if_several(context: typer.Context, words: Sequence[str], output: Path | None) -> None:
    """Run each of several configs, which are the words without ``=``, and exit; nothing for one alone."""
    configs = [words[0], *(word for word in words[1:] if "=" not in word)]
    if len(configs) > 1:
        from clrtool.cli.run.many import run_configs

        run_configs(context, configs, output)


class Workers(Protocol):
    """What trains the seeds of a test elsewhere, so many at once."""

    jobs: int

    def run(self) -> None:
        """Train all that is lacking, and leave what was measured in the folders of jobs."""
        ...


def workers_of(
    context: typer.Context, job: Job, share: Share, jobs: int, threads: int | None, ray: str | None
) -> Workers | None:
    """What was asked for to share the seeds out to; None for this process alone."""
    if ray is not None and (jobs > 1 or share.shards):
        raise ConfigError("--ray shares the seeds out by itself: do without --jobs and --seed-shard")
    job.share = share if share.shards else None
    jobs = min(jobs, max(1, share.count(most_seeds(job))))
    deterministic = bool(job.source["deterministic"])
    job.threads = threads_of(jobs, threads, deterministic=deterministic, quiet=job.quiet)
    if ray is not None:
        from clrtool.cli.run.ray_pool import RayTasks

        job.collect = _never_here
        return RayTasks(job, ray)
    if jobs == 1:
        return None
    job.collect = _one_here
    return Jobs(job, [*command_of(context, share, OURS), *_threads(job), "--json"], jobs)


def most_seeds(job: Job) -> int:
    """The seeds of the test; where their number is ``auto``, the most that there can be."""
    seeds = job.settings.sweep.seeds
    return SEEDS if seeds == "auto" else seeds


def _threads(job: Job) -> list[str]:
    return [] if job.threads is None else ["--threads", str(job.threads)]


def command_of(context: typer.Context, share: Share, without: set[str]) -> list[str]:
    """The words of a command that measures a share, with all options that were given but for some."""
    shard = [] if share.shard is None else ["--seed-shard", str(share.shard)]
    words = [context.params["config"], *(context.params["overrides"] or ())]
    return ["rangetest", *words, *passed_on(context, without), *shard, "-o", str(share.run)]


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


def _one_here(seeds: Sequence[int]) -> Sequence[int]:
    """A single seed is trained sooner here than in a process that has to start."""
    return _never_here(seeds) if len(seeds) > 1 else seeds


def _never_here(seeds: Sequence[int]) -> Sequence[int]:
    raise LackingError(seeds)


def measure_with(workers: Workers, job: Job, *, verify: bool) -> RunRecord:
    """Have the seeds trained elsewhere until none is lacking; they are asked for again where all is swept lower."""
    while True:
        workers.run()
        try:
            return measure(job, None, verify=verify)
        except LackingError:
            continue
