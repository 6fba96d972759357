"""``clrtool init`` and ``clrtool schema``: where a config of one's own begins."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from clrtool.cli.complete import configs
from clrtool.config.shipped import shipped_configs
from clrtool.errors import ConfigError
from clrtool.files import write_whole
from clrtool.report.text.progress import say
from clrtool.words import nearest


def init(
    name: Annotated[
        str | None, typer.Argument(help="A shipped config; without it they are listed.", autocompletion=configs)
    ] = None,
    destination: Annotated[Path | None, typer.Argument(help="The new file.  [default: ./NAME.yaml]")] = None,
    model: Annotated[str | None, typer.Option(help="Write one for this model: mlp, torchvision.resnet18, ...")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="KIND:PLACE", help="And for this data: image_folder:DIR, ...")
    ] = None,
) -> None:
    """Copy a shipped config, or write one for a model and data of your own. An existing file is never replaced.

    A model is a built-in, torchvision.NAME, or pkg.module:callable. Data is image_folder:DIR, npz:FILE, text:FILE,
    digits, torchvision.NAME:DIR, or pkg.module:callable.

    Examples: clrtool init custom mine.yaml

    clrtool init mine.yaml --model torchvision.resnet18 --data image_folder:photos
    """
    if model is not None or data is not None:
        _write_starter(model, data, Path(name or "mine.yaml"))
        return
    shipped = shipped_configs()
    if name is None:
        for known, path in shipped.items():
            typer.echo(f"{known:20} {path.read_text(encoding='utf-8').partition(chr(10))[0].lstrip('# ')}")
        return
    if name not in shipped:
        raise ConfigError(f"init: no shipped config {name!r}; {nearest(name, shipped)}")
    target = destination or Path(f"{name}.yaml")
    modules = _modules(shipped[name])
    sources = {shipped[name]: target} | _code(shipped[name], target, modules)
    for path in sources.values():
        if path.exists():
            raise ConfigError(f"{path}: exists already; copy to another folder: clrtool init {name} DIR/{name}.yaml")
    for path, copy in sources.items():
        write_whole(copy, path.read_bytes())
        say(f"{copy}: written")
    _help_editors(target)
    _say_next(target, "".join(f" --allow-import '{module}:*'" for module in modules))


def _modules(config: Path) -> list[str]:
    """The modules of the factories that a config names."""
    from clrtool.config.file import load_config

    return sorted({factory.partition(":")[0] for factory in load_config(config).factories().values()})


def _code(config: Path, target: Path, modules: list[str]) -> dict[Path, Path]:
    """Where the files of factories beside a config go, but for what another config has brought there already.

    They keep their names: the config imports them by these.
    """
    copies = {code: target.with_name(code.name) for code in (config.with_name(f"{module}.py") for module in modules)}
    return {code: copy for code, copy in copies.items() if not copy.is_file() or copy.read_bytes() != code.read_bytes()}


def _write_starter(model: str | None, data: str | None, target: Path) -> None:
    from clrtool.config.file import load_config
    from clrtool.report.programs.starter import factories, starter

    if model is None or data is None:
        raise ConfigError("--model and --data: give both, such as --model mlp --data digits")
    if target.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{target}: a config ends in .yaml")
    if target.exists():
        raise ConfigError(f"{target}: exists already; give another name: clrtool init NAME.yaml --model ... --data ...")
    write_whole(target, starter(model, data, str(target)))
    try:
        load_config(target)
    except ConfigError:
        target.unlink()
        raise
    say(f"{target}: written")
    _help_editors(target)
    _say_next(target, "".join(f" --allow-import '{word}'" for word in factories(model, data)))


def _help_editors(config: Path) -> None:
    """Put the schema beside a config, whose comment names it; one that is there already stays."""
    from clrtool.config.json_schema import SCHEMA_FILE

    beside = config.with_name(SCHEMA_FILE)
    if not beside.exists():
        write_whole(beside, _schema())
        say(f"{beside}: written, by which an editor completes and checks the config")


def _say_next(config: Path, allow: str) -> None:
    command = f"clrtool rangetest {shlex.quote(str(config))}{allow}"
    say(f"next: {command} --dry-run\n      {command}")


def schema() -> None:
    """Print the JSON Schema of a config, for editors and other checkers.

    Example: clrtool schema > clrtool.schema.json
    """
    typer.echo(_schema(), nl=False)


def _schema() -> str:
    from clrtool.config.json_schema import json_schema

    return json.dumps(json_schema(), indent=2) + "\n"
