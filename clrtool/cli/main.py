"""The command line: the app, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import clrtool
from clrtool.cli.commands import Commands
from clrtool.cli.console import asks_for_json, readable_or_not, silence_stdout
from clrtool.cli.run.signals import ATTACHED, Signals, end_with_stdin
from clrtool.cli.run.torchrun import check_alone, find_seat, hush
from clrtool.errors import INTERNAL, ConfigError, Interrupted, MachineError, exit_code, lack_of
from clrtool.report.text.progress import say

SIGNALLED = 128

WELCOME = """\
clrtool finds the two learning rates that a cyclical schedule moves between, and plans the schedule.

  clrtool rangetest digits    try it: a second on a CPU, nothing to download
  clrtool init                write a config for the model and data in this folder
  clrtool doctor              check that this machine can run a range test
  clrtool guide               read how it works, topic by topic

In Python: clrtool.range_test(model, optimizer, train_loader, heldout_loader, epochs=30)
All commands: clrtool --help"""

app = typer.Typer(
    name="clrtool",
    cls=Commands,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        import platform  # milliseconds of every start, for one line

        typer.echo(f"clrtool {clrtool.__version__}, Python {platform.python_version()}, torch {_torch_version()}")
        typer.echo("clrtool doctor lists the devices.")  # to look for them would load torch, which takes seconds
        raise typer.Exit


def _torch_version() -> str:
    """As it is installed; a build for CUDA or the CPU alone says so. Without loading torch, which takes seconds."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("torch")
    except PackageNotFoundError:
        return "not installed"


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Find the learning rate bounds of a PyTorch model with an LR range test, and plan a schedule from them.

    Examples:
        clrtool rangetest digits
        clrtool plan digits
        clrtool plot digits
    """
    if context.invoked_subcommand is None:
        typer.echo(WELCOME)
    if context.invoked_subcommand == "compare":
        check_alone("compare")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit. CLRTOOL_DEBUG=1 shows the traceback of an error."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115, PTH123
    os.environ.pop("MPLBACKEND", None)  # no picture needs any, and of one that it lacks matplotlib is not imported
    if (seat := find_seat()) is not None and seat.local_rank:
        hush()
    signals = Signals()
    try:
        with signals, warnings.catch_warnings():
            warnings.showwarning = _warn
            if os.environ.pop(ATTACHED, None):
                end_with_stdin(signals)
            app(args=words, obj=signals, prog_name="clrtool")
    except SystemExit as end:
        with readable_or_not():
            sys.stdout.flush()
        # to click a pipe that broke is a failure; in `clrtool plan ... | head` the reader has what it wanted
        sys.exit(0 if isinstance(end.__context__, BrokenPipeError) else end.code)
    except (Interrupted, Exception) as error:  # noqa: BLE001 (a bug must end in code 70, for CI takes 1 for drift)
        stop = error.signum if isinstance(error, Interrupted) else signals.stop  # it may have come to another rank
        if stop is not None and not isinstance(error, MachineError | OSError):
            # whatever it became on its way out of an import that it broke off
            _end(error if isinstance(error, Interrupted) else Interrupted(stop), words)
        if isinstance(error, OSError):
            silence_stdout()
        if isinstance(error, BrokenPipeError):  # as rich tells it
            sys.exit(0)
        _fail(error, exit_code(error), words)
    sys.exit(0)


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: object = None,
) -> None:
    """A warning as a line for people, with its place where that is the user's own code."""
    foreign = {"site-packages", "dist-packages", "clrtool"} & {*Path(filename).parts}
    say(f"warning: {message}" if foreign else f"{filename}:{lineno}: {category.__name__}: {message}")


def _end(stop: Interrupted, words: Sequence[str]) -> NoReturn:
    """Leave with the code that a shell gives to a process which a signal has ended."""
    code = SIGNALLED + stop.signum
    if asks_for_json(words):
        _print_json({"status": "interrupted", "code": code, "message": f"run {stop.way_on} to resume"})
    sys.exit(code)


def _fail(error: BaseException, code: int, words: Sequence[str]) -> NoReturn:
    if os.environ.get("CLRTOOL_DEBUG"):
        raise error
    message = _message(error)
    if code == INTERNAL:
        message = f"internal error, a bug in clrtool: {type(error).__name__}: {error}\nCLRTOOL_DEBUG=1 shows where"
    if asks_for_json(words):
        _print_json({"status": "error", "code": code, "message": message})
    else:
        say("error: " + message.replace("\n", "\n       "))
    sys.exit(code)


def _print_json(values: Mapping[str, object]) -> None:
    """What became of a command, which its code says too where nobody reads it or there is no room for it."""
    import json  # milliseconds of every start, for an error

    try:
        with readable_or_not():
            typer.echo(json.dumps(values))
    except OSError:
        silence_stdout()


def _message(error: BaseException) -> str:
    """What to say of an error; of one that the system has raised, with its file and without its number."""
    lack = lack_of(error)
    if lack is not None and not isinstance(error, ConfigError | MachineError):
        what = lack.strerror if isinstance(lack, OSError) else str(lack)
        return f"this machine has no more to give: {what or 'out of memory'}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}"
    return str(error)
