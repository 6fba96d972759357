"""``clrtool init`` and ``clrtool schema``: where a config of one's own begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from clrtool.cli.console import say
from clrtool.errors import ConfigError
from clrtool.words import nearest


def init(
    name: Annotated[str | None, typer.Argument(help="A shipped config; without it they are listed.")] = None,
    destination: Annotated[Path | None, typer.Argument(help="The new file.  [default: ./NAME.yaml]")] = None,
) -> None:
    """Copy a shipped config, to make it your own. An existing file is never replaced.

    Example: clrtool init custom mine.yaml
    """
    from clrtool.config_file import shipped_configs
    from clrtool.files import write_whole

    shipped = shipped_configs()
    if name is None:
        for known, path in shipped.items():
            typer.echo(f"{known:20} {path.read_text(encoding='utf-8').partition(chr(10))[0].lstrip('# ')}")
        return
    if name not in shipped:
        raise ConfigError(f"init: no shipped config {name!r}; {nearest(name, shipped)}")
    target = destination or Path(f"{name}.yaml")
    # A config with a factory has its Python file beside it, which keeps its name: the config imports it by that.
    sources = {
        shipped[name]: target,
        **{code: target.with_name(code.name) for code in shipped[name].parent.glob(f"{name}_*.py")},
    }
    for path in sources.values():
        if path.exists():
            raise ConfigError(f"{path}: exists already; copy to another folder: clrtool init {name} DIR/{name}.yaml")
    for path, copy in sources.items():
        write_whole(copy, path.read_bytes())
        say(f"{copy}: written")


def schema() -> None:
    """Print the JSON Schema of a config, for editors and other checkers."""
    from clrtool.config import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))
