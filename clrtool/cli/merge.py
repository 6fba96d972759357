"""``clrtool merge``: the shards of a range test -> its run."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clrtool.cli.console import Plain
from clrtool.cli.rangetest import (
    INCONCLUSIVE,
    AllowImport,
    Device,
    Download,
    Every,
    Json,
    OnOom,
    OnOomOption,
    Quiet,
    Threads,
    make_job,
    run,
    show_run,
)
from clrtool.cli.run.sharding import SHARDS
from clrtool.core.shard import Shard
from clrtool.errors import ConfigError

if TYPE_CHECKING:
    from clrtool.engine.resume.sharding import FoundShard


def merge(
    context: typer.Context,
    shards: Annotated[list[Path], typer.Argument(help="Their folders, or the run folder that holds all of them.")],
    output: Annotated[
        Path | None, typer.Option("-o", help="The run folder.  [default: that which holds the shards]")
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    download: Download = False,
    allow_import: AllowImport = None,
    on_oom: OnOomOption = OnOom.stop,
    checkpoint_every: Every = 15,
    as_json: Json = False,
    quiet: Quiet = False,
    plain: Plain = False,
) -> None:
    """Make one run of the shards that rangetest --seed-shard has left.

    They have to be of the same config, data and code, and finished. What no shard could know of is trained now: a third
    seed where there is room for it, or all again, lower, if everything broke at once. The data is read, and code that
    the config names has to be allowed again. The shards stay as they are.

    Example: clrtool merge runs/mine
    """
    from clrtool.engine.resume.sharding import find_shards

    folders = _folders(shards)
    folder = output or _run_folder(folders)
    found = find_shards(folders)
    first = found[0]
    path = first.folder / "config.yaml"
    job = make_job(path, [], folder, context.obj, device=device, allow_import=allow_import, download=download,
                   deterministic=first.deterministic, every=checkpoint_every, on_oom=on_oom, fresh=False,
                   quiet=quiet or as_json, plain=plain)  # fmt: skip
    job.source = {**job.source, "folder": Path(first.config_folder)}
    job.gathered, job.threads, job.collect = tuple(folders), threads, _missing(found, job.settings.seed)
    record = run(job, path, [], None, verify=False)
    show_run(record, job, as_json=as_json)
    if record.bounds.verdict.word == "inconclusive":
        raise typer.Exit(INCONCLUSIVE)


def _folders(given: Sequence[Path]) -> list[Path]:
    """The folders of shards, each once."""
    found: list[Path] = []
    for path in given:
        inside = sorted(each for each in (path / SHARDS).glob("*-of-*") if each.is_dir())
        found += inside or [path]
    return list(dict.fromkeys(found))


def _run_folder(folders: Sequence[Path]) -> Path:
    """The folder that holds all of them. Raises ConfigError if there is none."""
    parents = {folder.absolute().parent for folder in folders}
    if len(parents) > 1 or next(iter(parents)).name != SHARDS:
        raise ConfigError("the shards do not lie in one run folder: say with -o DIR where the run is to be")
    return folders[0].parent.parent


def _missing(found: Sequence[FoundShard], first: int) -> Callable[[Sequence[int]], Sequence[int]]:
    """What to do of seeds that nobody trained: those of a shard that is missing are its own business."""
    of, given = found[0].shard.of, {each.shard.number for each in found}

    def collect(seeds: Sequence[int]) -> Sequence[int]:
        numbers = sorted({(seed - first) % of + 1 for seed in seeds} - given)
        if numbers:
            commands = [shlex.join(["clrtool", *found[0].command, "--seed-shard", str(Shard(k, of))]) for k in numbers]
            raise ConfigError(f"shard {', '.join(f'{k}/{of}' for k in numbers)} is missing", *commands)
        return seeds

    return collect
