"""One line about many processes: live on a terminal, now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from clrtool.cli.console import PLAIN_LINE_SECONDS, console, say

if TYPE_CHECKING:
    from rich.status import Status as Spinner


class Status:
    """What goes on, in place on a terminal; a plain line every 10 seconds elsewhere, and where that is wanted."""

    def __init__(self, *, quiet: bool, plain: bool) -> None:
        self._quiet, self._shown, self._last = quiet, "", time.monotonic()
        terminal = console(stderr=True)
        lives = terminal.is_terminal and not terminal.is_dumb_terminal and not quiet and not plain
        self._spinner: Spinner | None = terminal.status("starting", spinner="line") if lives else None

    def __enter__(self) -> Self:
        if self._spinner is not None:
            self._spinner.start()
        return self

    def show(self, line: str) -> None:
        """What goes on now."""
        if line == self._shown:
            return
        if self._spinner is not None:
            from rich.text import Text

            self._shown, text = line, Text(line)
            text.truncate(console(stderr=True).width - 2, overflow="ellipsis")  # beside the spinner
            self._spinner.update(text)
        elif time.monotonic() - self._last >= PLAIN_LINE_SECONDS:
            self._shown, self._last = line, time.monotonic()
            say(line, quiet=self._quiet)

    def say(self, line: str) -> None:
        """A line that stays."""
        if self._spinner is not None:
            self._spinner.stop()
        say(line, quiet=self._quiet)
        if self._spinner is not None:
            self._spinner.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._spinner is not None:
            self._spinner.stop()
