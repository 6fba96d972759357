"""Processes of clrtool that another one starts: how they are waited for, stopped, and what they have to say.

A child reads its stdin, to which nothing is written: when it ends, for the parent closed it or is gone, the child saves
and stops. So a signal reaches it once, whether it came to the parent alone or to all at the same time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess  # nosec B404 # it starts nothing but ourselves
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, NamedTuple

from clrtool.cli.run.signals import ATTACHED, Signals

# Seconds between two looks at the children.
LOOK = 0.1
# A younger child may not have its handlers yet, and has nothing to save.
YOUNG = 10.0
# Characters of what a child says that are kept.
KEPT = 20_000


@dataclass
class Ended:
    """A child that has ended.

    Args:
        code: its exit code; that of a shell, where a signal has ended it.
        result: the JSON object on its stdout, None if there is none.
        said: the end of what it wrote to stderr.
    """

    code: int
    result: dict[str, Any] | None
    said: str

    @property
    def message(self) -> str:
        """What went wrong, in words."""
        if self.result is not None and "message" in self.result:
            return str(self.result["message"])
        if self.code > 128:
            return f"was ended by {_signal_name(self.code - 128)}"
        return f"ended with code {self.code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Command(NamedTuple):
    """What a child is to do: the name by which people know it, its words, and what its environment is to have."""

    name: str
    words: Sequence[str]
    environment: Mapping[str, str] = MappingProxyType({})


def python() -> list[str]:
    """This Python, which imports nothing from where it is started, unless clrtool itself lies there."""
    here = Path(__file__).is_relative_to(Path.cwd())  # not installed, but found where the parent was started
    return [sys.executable, *([] if here else ["-P"])]


class Child:
    """One process, which is told to stop by the end of its stdin."""

    def __init__(self, command: Command) -> None:
        self._process = subprocess.Popen(  # noqa: S603  # nosec B603 # our own words
            [*python(), "-m", "clrtool", *command.words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, ATTACHED: "1", **command.environment},
            start_new_session=True,  # Ctrl-C comes to us alone
        )
        self._begin = time.monotonic()
        self._read = [_Reader(stream) for stream in (self._process.stdout, self._process.stderr)]

    def stop(self) -> None:
        """Ask it to save and stop."""
        assert self._process.stdin is not None
        if not self._process.stdin.closed:
            self._process.stdin.close()

    def save(self) -> None:
        """Ask it to save and go on."""
        if time.monotonic() - self._begin > YOUNG:
            self._process.send_signal(signal.SIGUSR1)

    def ended(self) -> Ended | None:
        """What came of it, None while it runs."""
        if (code := self._process.poll()) is None:
            return None
        self.stop()
        out, err = (reader.text() for reader in self._read)
        return Ended(code if code >= 0 else 128 - code, _json(out), err[-KEPT:])


class _Reader:
    """All that comes through a pipe, read as it comes, for a full pipe would stop the child."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        assert stream is not None
        self._stream, self._content = stream, b""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._stream:
            self._content = self._stream.read()

    def text(self) -> str:
        self._thread.join(timeout=5)  # a grandchild may hold the pipe for longer
        return self._content.decode(errors="replace")


def _json(text: str) -> dict[str, Any] | None:
    try:
        values = json.loads(text)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def run_children(
    commands: Sequence[Command],
    at_once: int,
    signals: Signals,
    on_look: Callable[[], object],
    on_end: Callable[[str, Ended], object],
) -> dict[str, Ended]:
    """Run commands of ours, so many at once, to the end of the last one, and give back what came of each by its name.

    Args:
        on_look: called ten times a second.
        on_end: called with name and end of a child.

    Raises:
        Interrupted: a signal asked to stop, and every child has saved.
    """
    waiting, running, ended = list(commands), dict[str, Child](), dict[str, Ended]()
    with signals.deferred():
        try:
            while running or (waiting and signals.stop is None):
                while waiting and signals.stop is None and len(running) < at_once:
                    command = waiting.pop(0)
                    running[command.name] = Child(command)
                _pass_on(signals, list(running.values()))
                for name in list(running):
                    if (end := running[name].ended()) is not None:
                        ended[name] = end
                        del running[name]
                        on_end(name, end)
                on_look()
                time.sleep(LOOK)
        finally:
            for child in running.values():
                child.stop()
    return {command.name: ended[command.name] for command in commands}


def _pass_on(signals: Signals, children: Sequence[Child]) -> None:
    """Tell the children what signals have asked of us."""
    if signals.save:
        signals.save = False
        for child in children:
            child.save()
    if signals.stop is not None:
        for child in children:
            child.stop()
