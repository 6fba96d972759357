"""Signals: the first asks a training to stop after its iteration, the second ends the process."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Self

from clrtool.errors import Interrupted, OutOfMemoryError

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# In the environment of a child: that it ends with its stdin.
ATTACHED = "CLRTOOL_ATTACHED"
# Seconds after which an interruption is raised again that came where nothing can be raised.
AGAIN = 1e-3


class Signals:
    """Handlers of SIGINT, SIGTERM, SIGHUP (a terminal that closes) and SIGUSR1, for as long as the command runs.

    Outside :meth:`deferred` the first signal to stop raises Interrupted where the program stands. Inside, it is noted
    in ``stop``, for the training to save its state first. With it all get back what they do by default, so the second
    one ends the process at once, whatever it is doing; but one that had come by then, in the same instant, asks for no
    more than the first. A SIGHUP that nohup has turned off stays so. SIGUSR1, which Slurm can send before it ends a
    job, is noted in ``save``.

    Python prints and drops an exception that is raised in a callback of the garbage collector, and an import runs many
    of these. Interrupted is then raised again a moment later, by SIGALRM.
    """

    def __init__(self) -> None:
        self.stop: int | None = None
        self.save = False
        self._deferred = False
        self._process = os.getpid()
        self._before: dict[signal.Signals, Any] = {}
        self._lost = sys.unraisablehook

    def __enter__(self) -> Self:
        with contextlib.suppress(ValueError):  # only the main thread may; elsewhere whoever embeds us decides
            for each in STOPPING:
                if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN:
                    self._before[each] = signal.signal(each, self._on_stop)
            self._before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._on_save)
            self._lost, sys.unraisablehook = sys.unraisablehook, self._on_lost
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if sys.unraisablehook == self._on_lost:
            sys.unraisablehook = self._lost
        if self.stop is None:  # else a second one ends the process, be it on its last steps
            for each, handler in self._before.items():
                signal.signal(each, handler)

    def take_back(self) -> None:
        """Handle signals again, after a library has put handlers of its own in place of these."""
        if self.stop is None:
            for each in self._before.keys() & set(STOPPING):
                signal.signal(each, self._on_stop)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Let what runs inside come to a good end before it is interrupted, or to an error that says more."""
        self._deferred = True
        try:
            yield
        except OutOfMemoryError:  # it may be tried in another way
            self._deferred = False
            raise
        self._deferred = False
        if self.stop is not None:
            raise Interrupted(self.stop)

    def _on_stop(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if os.getpid() != self._process:  # a worker that was just forked
            os._exit(128 + signum)
        if self.stop is not None:  # it came in the same instant, else it would not have come to us
            return
        self.stop = signum
        self._stop_listening()
        name = signal.Signals(signum).name
        does = "finishing the iteration and saving" if self._deferred else "stopping"
        tell(f"{name}: {does}; once more stops at once")
        if not self._deferred:
            raise Interrupted(signum)

    def _on_lost(self, lost: sys.UnraisableHookArgs) -> None:
        if not isinstance(lost.exc_value, Interrupted):
            self._lost(lost)
            return
        signal.signal(signal.SIGALRM, self._raise_again)
        signal.setitimer(signal.ITIMER_REAL, AGAIN)

    def _raise_again(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.stop is not None and not self._deferred:  # deferred() raises it at its end
            raise Interrupted(self.stop)

    def _stop_listening(self) -> None:
        """Give signals back what they do by default, once those are heard that came in the same instant.

        Python notes a signal and calls its handler later; of one that has no handler by then it prints a traceback. One
        more signal makes it call them all, while those that come only now wait.
        """
        handled = self._before.keys() & set(STOPPING)
        signal.pthread_sigmask(signal.SIG_BLOCK, handled)
        signal.raise_signal(signal.SIGUSR1)
        for each in handled:
            signal.signal(each, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)

    def _on_save(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if os.getpid() == self._process and self.stop is None:
            self.save = True
            tell(f"{signal.Signals(signum).name}: saving after this iteration, and going on")


def tell(message: str) -> None:
    """A line on stderr from inside a handler, where no stream that may be in use can be written."""
    with contextlib.suppress(OSError, ValueError):
        # a live line is left, and the cursor that it hid is shown
        live = "\r\x1b[K\x1b[?25h" if sys.stderr.isatty() else ""
        os.write(sys.stderr.fileno(), f"{live}{message}\n".encode())


def end_with_stdin(signals: Signals) -> None:
    """In a child of :mod:`subprocesses`: stop when stdin ends, unless a signal has asked for that already."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        if signals.stop is None:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
