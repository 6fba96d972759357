"""The global generators that a user's model or data may draw from: seeded, kept as plain values, and put back."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed every global generator that a user's model or data may draw from: of GPUs the current one's."""
    torch.cuda.manual_seed(seed)  # of others nobody puts the generators back
    seed_host(seed)


def seed_host(seed: int) -> None:
    """The same, but for those of GPUs."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002


def rng_state(device: torch.device | None = None) -> dict[str, Any]:
    """The states of all global generators on the host, and of that of a CUDA device, in plain types and tensors."""
    name, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 (a user's code may draw from it)
    return {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (
            str(name),
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ),
        "cuda": torch.cuda.get_rng_state(device) if device is not None and device.type == "cuda" else None,
    }


def host_states() -> tuple[object, ...]:
    """The state of every generator whose numbers a graph would freeze, to be compared."""
    states = rng_state()
    return states["torch"].tolist(), states["python"], states["numpy"][1].tolist(), states["numpy"][2:]


def restore_rng_state(states: Mapping[str, Any], device: torch.device | None = None) -> None:
    """Put the generators back to :func:`rng_state`."""
    torch.set_rng_state(states["torch"])
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, torch.as_tensor(keys).numpy().astype(np.uint32), *rest))  # noqa: NPY002
    if device is not None and device.type == "cuda" and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"], device)


def seed_gpu(seed: int, device: torch.device | None) -> None:
    """Seed the generator of a CUDA device, and of no other."""
    if device is not None and device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def fork_rng(device: torch.device | None = None) -> Iterator[None]:
    """Put the generators back to where they were."""
    before = rng_state(device)
    try:
        yield
    finally:
        restore_rng_state(before, device)


class RngStream:
    """Random numbers of their own for code that draws from the global generators.

    Inside :meth:`active` the generators go on from where they were left the last time, at first from ``seed``;
    outside, nothing was drawn.

    Args:
        device: where a model draws, as its dropout does; None for what reads data, which draws on no GPU.
    """

    def __init__(self, *seed: int, device: torch.device | None = None) -> None:
        self._seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self._states: Mapping[str, Any] | None = None
        self._device = device

    @classmethod
    def from_here(cls, device: torch.device) -> RngStream:
        """Those that come next, of the host and of a CUDA device."""
        draws = cls(device=device)
        draws._states = rng_state(device)
        return draws

    @property
    def states(self) -> Mapping[str, Any]:
        """Where the generators were left; those of who began from somewhere."""
        assert self._states is not None
        return self._states

    @contextmanager
    def active(self) -> Iterator[None]:
        with fork_rng(self._device):
            if self._states is None:
                seed_host(self._seed)
                seed_gpu(self._seed, self._device)
            else:
                restore_rng_state(self._states, self._device)
            try:
                yield
            finally:
                self._states = rng_state(self._device)
