"""``clrtool merge``: the shards of a range test -> its run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from clrtool.cli.console import Format, Plain
from clrtool.cli.help import RUN
from clrtool.cli.options import (
    AllowImport,
    Device,
    Download,
    Every,
    Json,
    OnOom,
    OnOomOption,
    Quiet,
    Threads,
    Verbose,
    build_options,
    display_of,
)
from clrtool.cli.outcome import check_conclusive, show_run
from clrtool.cli.run.folder import RunFolder
from clrtool.cli.run.measure import measure
from clrtool.cli.run.seed_share import SHARDS
from clrtool.cli.run.shards import ShardArray
from clrtool.cli.run.spec import read_spec
from clrtool.errors import ConfigError

Shards = Annotated[
    list[Path], typer.Argument(metavar="RUN|SHARD...", help="Run folder with all shards, or their folders.")
]
Output = Annotated[
    Path | None,
    typer.Option("-o", metavar="DIR", help="Run folder.  [default: the shards' own]", rich_help_panel=RUN),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Config, if its code is not in this folder.", rich_help_panel=RUN),
]


# fmt: off
def merge(
    context: typer.Context, shards: Shards, output: Output = None, config: ConfigOption = None,
    allow_import: AllowImport = None, download: Download = False, checkpoint_every: Every = 15,
    device: Device = "auto", on_oom: OnOomOption = OnOom.stop, threads: Threads = None, verbose: Verbose = False,
    as_json: Json = False, form: Format = None, quiet: Quiet = False, plain: Plain = False,
) -> None:
    # fmt: on
    """Merge the shards of rangetest --seed-shard into one run.

    Examples:
        clrtool merge runs/digits
        clrtool merge /mnt/a/1-of-2 /mnt/b/2-of-2 -o runs/digits
        clrtool merge runs/mine --config mine.yaml --allow-import 'model:*'

    All shards must be finished and have the same config, data and code. What no single shard could decide is trained
    now: a third seed where the budget has room, or the whole sweep at lower rates if every seed diverged at once. The
    data is read again, and imports of the config must be allowed again; its code is looked for beside --config or in
    the current folder, never where a shard says. The shards are left unchanged.
    """
    from clrtool.engine.resume.sharding import find_shards

    folders = _folders(shards)
    folder = output or _run_folder(folders)
    _check_apart(folder, folders)
    found = find_shards(folders)
    first = found[0]
    if config is not None and not config.is_file():
        raise ConfigError(f"--config {config}: there is no such file")
    # beside what the user names, and never where a shard says: it may come from anybody
    options = build_options(context.params, config or Path("here"))
    spec = read_spec(first.folder / "config.yaml", [], folder, replace(options, deterministic=first.deterministic),
                     display_of(context.params), checkpoint_every=checkpoint_every,
                     accumulate=on_oom is OnOom.accumulate, threads=threads)  # fmt: skip
    record = measure(RunFolder(spec, context.obj, ShardArray(spec, found)))
    show_run(record, spec)
    check_conclusive(record)


def _folders(given: Sequence[Path]) -> list[Path]:
    """The folders of shards, each once. Raises ConfigError for a path that is none."""
    found: dict[Path, Path] = {}
    for path in given:
        if not path.is_dir():
            raise ConfigError(f"{path}: no such folder; give the run folder with all shards, or their folders")
        inside = sorted(each for each in (path / SHARDS).glob("*-of-*") if each.is_dir())
        for each in inside or [path]:
            found.setdefault(each.resolve(), each)
    return [*found.values()]


def _check_apart(folder: Path, shards: Sequence[Path]) -> None:
    """Raise ConfigError for a run folder in that of a shard, which would not be left as it is."""
    target = folder.resolve()
    if inside := [shard for shard in shards if shard.resolve() in (target, *target.parents)]:
        raise ConfigError(f"-o {folder}: lies in the shard {inside[0]}, which is left unchanged: give another folder")


def _run_folder(folders: Sequence[Path]) -> Path:
    """The folder that holds all of them. Raises ConfigError if there is none."""
    parents = {folder.absolute().parent for folder in folders}
    if len(parents) > 1 or next(iter(parents)).name != SHARDS:
        raise ConfigError("the shards are not in one run folder: give the folder of the merged run with -o DIR")
    return folders[0].parent.parent
