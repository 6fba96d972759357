"""Orders of epochs that are drawn in a thread before they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from threading import Thread

from clrtool.engine.data.loader import DrawnOrder, Order, ResidentLoader


class OrdersAhead:
    """The orders of a loader, that of the next epoch drawn meanwhile.

    On the host an order of 50,000 samples takes as long as tens of captured steps of a small network, which would wait
    for it. Only numbers are drawn in the thread: what it asked of CUDA could end a capture.
    """

    def __init__(self, loader: ResidentLoader) -> None:
        self._loader = loader
        self._next: tuple[tuple[int, int], Future[DrawnOrder]] | None = None

    def order(self, seed: int, epoch: int) -> Order:
        """That of an epoch, on the device."""
        if self._next is not None and self._next[0] == (seed, epoch):
            drawn = self._next[1].result()
        else:
            drawn = self._loader.drawn(seed, epoch)
        following = seed, epoch + 1
        self._next = following, _begun(partial(self._loader.drawn, *following))
        return self._loader.on_device(drawn)


def _begun(draw: Callable[[], DrawnOrder]) -> Future[DrawnOrder]:
    """A drawing in a thread of its own, which ends with it: one that stays would make every fork a warning."""
    found = Future[DrawnOrder]()

    def run() -> None:
        try:
            found.set_result(draw())
        except BaseException as error:  # noqa: BLE001 (raised where it is asked for)
            found.set_exception(error)

    Thread(target=run, name="order").start()
    return found
