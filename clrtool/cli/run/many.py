"""``rangetest A.yaml B.yaml``: several range tests, each in a process and a run folder of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from clrtool.cli.run.executors import passed_on
from clrtool.cli.run.subprocesses import Command, Ended, run_children
from clrtool.errors import ConfigError
from clrtool.report.text.progress import Status
from clrtool.words import count, duration, printable

OURS = {"output", "jobs", "as_json", "quiet", "plain", "verbose"}
# What is about the result of one test.
ALONE = ("write", "check", "tolerance")


def configs_in(words: Sequence[str]) -> list[str]:
    """The configs among the words of a command line: the first, and those without ``=``."""
    return [words[0], *(word for word in words[1:] if "=" not in word)]


def run_configs(context: typer.Context, configs: Sequence[str], output: Path | None) -> tuple[str, int]:
    """Run each; gives what to say of each in a line, and the worst of their codes: one that fails stops no other."""
    params, folders, finished = context.params, folders_of(configs, output), list[str]()
    if given := [name for name in ALONE if params.get(name) is not None]:
        raise ConfigError(f"--{given[0]} takes one config, not {len(configs)}")
    with Status(quiet=params["quiet"] or params["as_json"], plain=params["plain"]) as status:

        def on_end(name: str, end: Ended) -> None:
            finished.append(name)
            status.say(_told(name, end, folders[name]))

        def on_look() -> None:
            status.show(f"{len(finished)} of {count(len(configs), 'config')} done")

        ended = run_children(_commands(context, folders), params["jobs"], context.obj, on_look, on_end)
    if params["as_json"]:
        told = json.dumps({name: end.result or _failed(end) for name, end in ended.items()}, indent=2)
    else:
        told = "\n".join(printable(_told(name, end, folders[name])) for name, end in ended.items())
    return told, max(end.code for end in ended.values())


def folders_of(configs: Sequence[str], output: Path | None) -> dict[str, Path]:
    """The run folder of each config. Raises ConfigError where two would have the same."""
    from clrtool.config.file import run_name

    folders: dict[str, Path] = {}
    for config in configs:
        folder = (output or Path("runs")) / run_name(Path(config))
        if (other := next((name for name, known in folders.items() if known == folder), None)) is not None:
            raise ConfigError(f"{other} and {config} would both write to {folder}: run each by itself, with -o DIR")
        folders[config] = folder
    return folders


def _commands(context: typer.Context, folders: Mapping[str, Path]) -> list[Command]:
    """Jobs beyond one for each config go to its seeds."""
    overrides = [word for word in context.params["overrides"] or () if "=" in word]
    jobs = max(1, context.params["jobs"] // len(folders))
    more = [*overrides, *passed_on(context, OURS), *(["--jobs", str(jobs)] if jobs > 1 else []), "--json"]
    return [Command(config, ["rangetest", config, *more, "-o", str(folder)]) for config, folder in folders.items()]


def _failed(end: Ended) -> dict[str, object]:
    return {"status": "error", "code": end.code, "message": end.message}


def _told(name: str, end: Ended, folder: Path) -> str:
    """What came of a config, in a line."""
    result = end.result or {}
    if result.get("status") == "dry run":
        told = [f"{count(result['iterations'], 'iteration')}, at most {duration(result['seconds'])}"]
    elif "bounds" in result:
        bounds = result["bounds"]
        found = {name: bounds[name] for name in ("base_lr", "max_lr") if bounds[name] is not None}
        told = [*(f"{name} {lr:.3g}" for name, lr in found.items()), bounds["verdict"], f"in {folder}/"]
    else:
        told = [end.message.splitlines()[0] if end.code else f"done, in {folder}/"]
    return f"{name}: {', '.join(told)}"
