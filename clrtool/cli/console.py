"""Where commands print: the result on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.text import Text

from clrtool.words import printable

if TYPE_CHECKING:
    from rich.status import Status

    from clrtool.core.curve import Point
    from clrtool.core.record import RunRecord

PLAIN_LINE_SECONDS = 10.0
# What is told sooner than this after the step before was known from an earlier start, and says nothing of the speed.
AT_ONCE = 0.02


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to ``main`` what a reader means that has gone; rich would exit with 1, which is another thing."""
        raise BrokenPipeError


def console(*, stderr: bool = False) -> Console:
    """A console that takes texts as they are. A pipe is given 100 columns, the width of the tables."""
    stream = sys.stderr if stderr else sys.stdout
    return _Console(stderr=stderr, markup=False, highlight=False, width=None if stream.isatty() else 100)


def say(message: str, *, quiet: bool = False) -> None:
    """A line for people, on stderr. That nobody can read it any more is no reason to stop."""
    if not quiet:
        with contextlib.suppress(OSError):
            console(stderr=True).print(Text(printable(message)), soft_wrap=True)


def draw(record: RunRecord) -> None:
    """The curve of a run as text on stdout, as wide as the terminal, in letters that its encoding has."""
    from clrtool.report.chart import range_test_chart

    try:
        "⠿┤└─│".encode(sys.stdout.encoding or "ascii")
        ascii_only = False
    except UnicodeEncodeError:
        ascii_only = True
    out = console()
    out.print(Text(range_test_chart(record, out.width, ascii_only=ascii_only)), soft_wrap=True)


class Progress:
    """One live line on a terminal, one plain line every 10 seconds elsewhere."""

    def __init__(self, seeds: int, epochs: float, metric: str, *, quiet: bool) -> None:
        self._seeds, self._epochs, self._metric, self._quiet = seeds, epochs, metric, quiet
        self._begin = self._last = time.monotonic()
        self._known = 0.0
        self._seen: list[int] = []
        self._at_once = False  # whether seeds take turns, as they do where a GPU trains them together
        terminal = console(stderr=True)
        self._live: Status | None = terminal.status("starting") if terminal.is_terminal and not quiet else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def update(self, seed: int, point: Point) -> None:
        self._at_once |= seed in self._seen[:-1]
        if seed not in self._seen:
            self._seen.append(seed)
        done = min(1.0, point.epoch / self._epochs)
        if not self._at_once:
            done = (len(self._seen) - 1 + done) / self._seeds
        self._seeds = max(self._seeds, len(self._seen))  # one more may follow where there is room
        who = f"{self._seeds} seeds" if self._at_once else f"seed {len(self._seen)}/{self._seeds}"
        self._show(
            done,
            f"{who}  epoch {point.epoch:.1f}/{self._epochs:g}  lr {point.lr:.2e}  {self._metric} {point.metric:.3f}",
        )

    def _show(self, done: float, what: str) -> None:
        """Tell what is done, and the time that is left when that is this part of all, 0 to 1."""
        elapsed = time.monotonic() - self._begin
        if elapsed < AT_ONCE:
            self._begin, self._known = time.monotonic(), done
        gained = done - self._known
        line = f"{what}  {f'{elapsed * (1 - done) / gained:.0f} s left' if gained > 0.02 else 'starting'}"
        if self._live is not None:
            self._live.update(Text(line))
        elif time.monotonic() - self._last >= PLAIN_LINE_SECONDS:
            self._last = time.monotonic()
            say(line, quiet=self._quiet)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
