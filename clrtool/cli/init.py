"""``clrtool init``: where a config of one's own begins."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clrtool.cli.complete import configs
from clrtool.cli.help import OUTPUT, RUN
from clrtool.cli.schema import schema_text
from clrtool.config.shipped import shipped_configs
from clrtool.errors import ConfigError
from clrtool.files import write_whole
from clrtool.report.text.progress import say
from clrtool.words import argument, nearest, shell_command

if TYPE_CHECKING:
    from clrtool.cli.discover import Finds, Found

# The exit code where there is nothing to write a config for: a usage error.
NOTHING = 2


Name = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME|FILE.yaml]",
        help="Shipped config to copy, or the new file.",
        autocompletion=configs,
        show_default=False,
    ),
]
Destination = Annotated[
    Path | None, typer.Argument(metavar="[FILE.yaml]", help="File for the copy.  [default: NAME.yaml]")
]
Model = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="Model: mlp, torchvision.resnet18, train:Net ...", rich_help_panel=RUN),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="KIND:PLACE", help="Data: image_folder:DIR, npz:FILE, train:get_data ...", rich_help_panel=RUN
    ),
]
List = Annotated[bool, typer.Option("--list", help="List the shipped configs.", rich_help_panel=OUTPUT)]


def init(
    name: Name = None, destination: Destination = None, model: Model = None, data: Data = None, listed: List = False
) -> None:
    """Write a config for the model and data in this folder, or those you name.

    Examples:
        clrtool init
        clrtool init mine.yaml --model train:Net --data train:get_data
        clrtool init custom

    Without --model and --data it looks for an nn.Module in the Python files of this folder, which it reads and does not
    run, for a model that Transformers has saved, and for .npz files, folders of images and texts.

    A model is mlp, convnet, resnet, vit, gpt, torchvision.NAME, or pkg.module:callable. Data is image_folder:DIR,
    npz:FILE, text:FILE, digits, torchvision.NAME:DIR, or pkg.module:callable. An existing file is never replaced.
    """
    from clrtool.report.programs.starter import starter

    shipped = shipped_configs()
    if listed:
        _list(shipped)
    elif model is not None or data is not None:
        if model is None or data is None:
            raise ConfigError("--model and --data: give both, such as --model mlp --data digits")
        target = Path(name or "mine.yaml")
        _write_starter(starter(model, data, str(target)), target)
        _say_how(target, model, data)
    elif name is None or name.endswith((".yaml", ".yml")):
        _propose(Path(name or "mine.yaml"))
    elif name not in shipped:
        raise ConfigError(f"init: no shipped config {name!r}; {nearest(name, shipped)}")
    else:
        _copy(shipped[name], destination or Path(f"{name}.yaml"))


def _list(shipped: Mapping[str, Path]) -> None:
    for known, path in shipped.items():
        typer.echo(f"{known:20} {path.read_text(encoding='utf-8').partition(chr(10))[0].lstrip('# ')}")


def _propose(target: Path) -> None:
    """Write a config for what the folder holds, and say why; where it holds nothing, say what to do."""
    from clrtool.cli.discover import discover

    finds = discover(Path())
    if finds.hub is not None and not finds.models:
        _write_hub(finds, target)
    elif finds.models:
        data = finds.data[0] if finds.data else _data_to_write(finds.models[0].word.partition(":")[0])
        _write_found(finds.models[0], data, target)
    elif finds.fitting is not None:
        _write_found(finds.fitting, finds.data[0], target)
    else:
        _say_nothing_found()


def _say_nothing_found() -> None:
    say(
        "init: this folder has no nn.Module in a .py file, no .npz, no folders of images and no text to propose a "
        "config for.\n"
        "next: clrtool rangetest digits   try it on handwritten digits\n"
        "      clrtool init custom        an example with a model and data of your own, to be edited\n"
        "      clrtool init --list        all shipped configs"
    )
    raise typer.Exit(NOTHING)


def _data_to_write(module: str) -> Found:
    """The function that gives the data, where there is none yet."""
    from clrtool.cli.discover import Found

    return Found(
        f"{module}:make_data",
        "no data was found in this folder.",
        (f"write make_data() in {module}.py: it returns (x_train, y_train), (x_heldout, y_heldout) or two datasets",),
    )


def _write_found(model: Found, data: Found, target: Path) -> None:
    from clrtool.report.programs.starter import starter

    todo = list(dict.fromkeys((*model.todo, *data.todo)))
    text = starter(model.word, data.word, str(target), data.size, data.samples)
    _write_starter(text, target)
    say(f"  model: {model.word} - {model.why}\n  data: {data.word} - {data.why}")
    for each in todo:
        say(f"first: {each}")
    _say_how(target, model.word, data.word)


def _write_hub(finds: Finds, target: Path) -> None:
    """A config for a model of Transformers, and the few lines by which clrtool calls it."""
    from clrtool.cli.discover import Found
    from clrtool.report.programs.starter import HUB_MODEL, hub_module

    assert finds.hub is not None
    place, name = finds.hub
    module = target.with_name("hub_model.py")
    if module.exists():
        raise ConfigError(f"{module}: exists already, and the model of {place} needs a file of this name")
    _refuse_existing(target)
    write_whole(module, hub_module(place, name))
    say(f"{module}: written")
    model = Found(HUB_MODEL, f"{place}/config.json says {name}; hub_model.py makes it return logits.")
    _write_found(model, finds.data[0] if finds.data else _data_to_write("hub_model"), target)


def _refuse_existing(target: Path) -> None:
    """Raise ConfigError for a config that is there, or whose run would have no folder to go to."""
    _check_name(target)
    if target.exists():
        raise ConfigError(f"{target}: exists already; give another name: clrtool init NAME.yaml")


def _check_name(target: Path) -> None:
    from clrtool.config.file import run_name

    run_name(target, fix="give the config another name")


def _copy(config: Path, target: Path) -> None:
    """A shipped config with the code that it names, its comments in the name that it gets."""
    _check_name(target)
    name, modules = config.stem, _modules(config)
    sources = {config: target} | _code(config, target, modules)
    for path in sources.values():
        if path.exists():
            raise ConfigError(f"{path}: exists already; copy to another folder: clrtool init {name} DIR/{name}.yaml")
    for path, copy in sources.items():
        write_whole(copy, _renamed(path.read_text(encoding="utf-8"), name, target))
        say(f"{copy}: written")
    _help_editors(target)
    _say_next(target, (f"{module}:*" for module in modules))


def _renamed(text: str, name: str, target: Path) -> str:
    """A text that speaks of a shipped config, which now speaks of its copy."""
    own = shell_command(argument(target.name))
    return re.sub(rf"(?<=rangetest ){name}(?:\.yaml)?(?![\w.-])|\b{name}\.yaml\b", lambda _: own, text)


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


def _write_starter(text: str, target: Path) -> None:
    from clrtool.config.file import load_config

    if target.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{target}: a config ends in .yaml")
    _refuse_existing(target)
    write_whole(target, text)
    try:
        load_config(target)
    except ConfigError:
        target.unlink()
        raise
    say(f"{target}: written")


def _say_how(target: Path, model: str, data: str) -> None:
    from clrtool.report.programs.starter import factories

    _help_editors(target)
    _say_next(target, factories(model, data))


def _help_editors(config: Path) -> None:
    """Put the schema beside a config, whose comment names it; one that is there already stays."""
    from clrtool.config.json_schema import SCHEMA_FILE

    beside = config.with_name(SCHEMA_FILE)
    if not beside.exists():
        write_whole(beside, schema_text())
        say(f"{beside}: written; editors complete and check the config with it")


def _say_next(config: Path, allowed: Iterable[str]) -> None:
    from clrtool.report.programs.starter import command_for

    command = command_for(config, allowed)
    say(f"next: {command} --dry-run\n      {command}")
