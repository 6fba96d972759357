"""``clrtool merge``: the shards of a range test -> its run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from clrtool.cli.console import Plain
from clrtool.cli.rangetest import (
    AllowImport,
    Device,
    Download,
    Every,
    Json,
    OnOom,
    OnOomOption,
    Quiet,
    Threads,
    build_options,
    check_conclusive,
    display_of,
    show_run,
)
from clrtool.cli.run.folder import RunFolder
from clrtool.cli.run.measure import measure
from clrtool.cli.run.seed_share import SHARDS
from clrtool.cli.run.shards import ShardArray
from clrtool.cli.run.spec import read_spec
from clrtool.errors import ConfigError

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="The config of the shards, beside which its code lies.  [default: here]"
    ),
]


def merge(
    context: typer.Context,
    shards: Annotated[list[Path], typer.Argument(help="Their folders, or the run folder that holds all of them.")],
    output: Annotated[
        Path | None, typer.Option("-o", help="The run folder.  [default: that which holds the shards]")
    ] = None,
    config: ConfigOption = None,
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
    the config names has to be allowed again; it lies beside --config, or in the current folder, wherever a shard may
    have found its own. The shards stay as they are.

    Examples: clrtool merge runs/digits

    clrtool merge runs/mine --config configs/mine.yaml --allow-import 'custom_factories:*'
    """
    from clrtool.engine.resume.sharding import find_shards

    folders = _folders(shards)
    folder = output or _run_folder(folders)
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
