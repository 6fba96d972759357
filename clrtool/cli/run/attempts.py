"""Tries at a measurement: where memory is short and it is allowed, once more in smaller micro-batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from clrtool.cli.run.folder import Folder
from clrtool.errors import OutOfMemoryError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from clrtool.engine.training.workload import Workload


class Attempts:
    """Iterated over, it gives contexts; one that ends for want of memory is followed by another.

    The workload is kept here and nowhere else, so that its memory is free before the next attempt builds its own.

    Args:
        checkpoint: its folder knows how many micro-batches an interrupted test had come to.
    """

    def __init__(self, folder: Folder, checkpoint: str) -> None:
        self._folder, self._checkpoint = folder, checkpoint
        self._micro_batches: int | None = None
        self.workload: Workload | None = None

    def __iter__(self) -> Iterator[AbstractContextManager[Self]]:
        while True:
            yield self._attempt()
            from clrtool.engine.runtime.device import free_memory  # torch is there by now, and was not at first

            free_memory()

    @property
    def micro_batches(self) -> int | None:
        """The micro-batches of a batch; None for those of the config."""
        from clrtool.engine.resume.checkpoint import CheckpointFolder
        from clrtool.engine.resume.open import saved_micro_batches

        if self._micro_batches is None and not self._folder.fresh:
            found = (saved_micro_batches(CheckpointFolder(each)) for each in self._folder.checkpoints(self._checkpoint))
            self._micro_batches = next((known for known in found if known), None)
        return self._micro_batches

    @contextmanager
    def _attempt(self) -> Iterator[Self]:
        from clrtool.engine.runtime.device import computing_with

        spec = self._folder.spec
        try:
            with computing_with(spec.threads):
                yield self
        except OutOfMemoryError as error:
            micro_batches = 2 * (self.micro_batches or spec.config.training.micro_batches)
            if not spec.accumulate or micro_batches > spec.config.data.batch_size:
                raise
            self._micro_batches = micro_batches
            self._folder.say(f"{error}\n--on-oom accumulate: going on with training.micro_batches={micro_batches}")
        finally:
            self.workload = None
