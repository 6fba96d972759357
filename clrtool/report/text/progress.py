"""What is shown on stderr while something runs: lines, a live line with a chart, one line about many processes."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self, TextIO

from clrtool.words import printable

if TYPE_CHECKING:  # rich takes a third of the time in which --help is there
    from rich.console import Console
    from rich.text import Text

    from clrtool.core.reading.curve import Point

PLAIN_LINE_SECONDS = 10.0
# What is told sooner than this after the step before was known from an earlier start, and says nothing of the speed.
AT_ONCE = 0.02
# Lines of a terminal in which a chart of the sweep leaves room for what was said before.
ROOMY = 16


def console(*, stderr: bool = False) -> Console:
    """A console that takes texts as they are. A pipe is given 100 columns, the width of the tables."""
    from rich.console import Console

    class Ours(Console):
        def on_broken_pipe(self) -> None:
            """Leave it to ``main`` what a reader means that has gone; rich would exit with 1."""
            raise BrokenPipeError

    stream = sys.stderr if stderr else sys.stdout
    return Ours(stderr=stderr, markup=False, highlight=False, width=None if stream.isatty() else 100)


def say(message: str, *, quiet: bool = False) -> None:
    """A line for people, on stderr. That nobody can read it any more is no reason to stop."""
    if not quiet:
        from rich.text import Text

        with contextlib.suppress(OSError):
            console(stderr=True).print(Text(printable(message)), soft_wrap=True)


def lacks_letters(stream: TextIO) -> bool:
    from clrtool.report.text.canvas import LETTERS

    try:
        LETTERS.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return True
    return False


class InPlace:
    """A line in place on a terminal; a plain one every 10 seconds elsewhere, and where that is wanted.

    Args:
        spinner: what turns beside the line, by rich's name.
    """

    def __init__(self, spinner: str, style: str | None = None, *, quiet: bool, plain: bool) -> None:
        from rich.live import Live
        from rich.spinner import Spinner

        self._quiet, self._last = quiet, time.monotonic()
        terminal = console(stderr=True)
        lives = terminal.is_terminal and not terminal.is_dumb_terminal and not quiet and not plain
        self._spinner = Spinner(spinner, "starting", style=style)
        self._live = Live(self._spinner, console=terminal, refresh_per_second=8, transient=True) if lives else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def _put(self, line: str) -> bool:
        """Show a line, if it is time for one. Gives whether it was shown."""
        if self._live is not None:
            from rich.text import Text

            text = Text(printable(line))
            text.truncate(self._live.console.width - 2, overflow="ellipsis")  # beside the spinner
            self._spinner.update(text=text)
        elif time.monotonic() - self._last >= PLAIN_LINE_SECONDS:
            self._last = time.monotonic()
            say(line, quiet=self._quiet)
        else:
            return False
        return True


class Progress(InPlace):
    """How far a sweep is and how long it will take, and on a terminal a chart of it."""

    def __init__(self, seeds: int, epochs: float, metric: str, *, quiet: bool, plain: bool) -> None:
        self._seeds, self._epochs, self._metric = seeds, epochs, metric
        self._begin, self._known = time.monotonic(), 0.0
        self._curves: dict[int, tuple[list[float], list[float]]] = {}
        self._at_once = False  # whether seeds take turns, as they do where a GPU trains them together
        self._ascii = lacks_letters(sys.stderr)  # a live display puts another stream in its place
        super().__init__("line" if self._ascii else "dots", quiet=quiet, plain=plain)

    def update(self, seed: int, point: Point) -> None:
        self._at_once |= seed in list(self._curves)[:-1]
        rates, metrics = self._curves.setdefault(seed, ([], []))
        rates.append(point.lr)
        metrics.append(point.metric)
        done = min(1.0, point.epoch / self._epochs)
        if not self._at_once:
            done = (len(self._curves) - 1 + done) / self._seeds
        self._seeds = max(self._seeds, len(self._curves))  # one more may follow where there is room
        who = f"{self._seeds} seeds" if self._at_once else f"seed {len(self._curves)}/{self._seeds}"
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
        self._put(line)
        if self._live is not None:
            from rich.console import Group

            self._live.update(Group(self._spinner, *self._chart(self._live.console)))

    def _chart(self, terminal: Console) -> list[Text]:
        """The curves so far, where the terminal has room for them; none for what is counted otherwise."""
        if not self._curves or terminal.height < ROOMY:
            return []
        from rich.text import Text

        from clrtool.report.text.chart import sweep_chart

        chart = sweep_chart(list(self._curves.values()), self._metric, terminal.width, ascii_only=self._ascii)
        return [Text(chart, no_wrap=True, overflow="crop")]


class Status(InPlace):
    """What goes on."""

    def __init__(self, *, quiet: bool, plain: bool) -> None:
        super().__init__("line", "status.spinner", quiet=quiet, plain=plain)
        self._shown = ""

    def show(self, line: str) -> None:
        """What goes on now."""
        if line != self._shown and self._put(line):
            self._shown = line

    def say(self, line: str) -> None:
        """A line that stays."""
        if self._live is not None:
            self._live.stop()
        say(line, quiet=self._quiet)
        if self._live is not None:
            self._live.start()


class ComparisonProgress(Progress):
    """One live line on a terminal, one plain line every 10 seconds elsewhere, over all trainings."""

    def __init__(self, names: Sequence[str], seeds: int, iterations: int, metric: str, **how: bool) -> None:
        super().__init__(seeds, 0.0, metric, **how)
        self._names, self._iterations = names, iterations
        self._done: dict[tuple[str, int], float] = {}

    def tell(self, name: str, seed: int, point: Point) -> None:
        """Take note of an evaluation. A training that broke is done."""
        self._done[name, seed] = point.iteration / self._iterations if math.isfinite(point.train_loss) else 1.0
        done = sum(self._done.values()) / (len(self._names) * self._seeds)
        begun = sum(known == name for known, _ in self._done)
        self._show(
            done,
            f"{name} ({self._names.index(name) + 1}/{len(self._names)})  seed {begun}/{self._seeds}  epoch "
            f"{point.epoch:.1f}  lr {point.lr:.2e}  {self._metric} {point.metric:.3f}",
        )
