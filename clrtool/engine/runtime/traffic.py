"""What ranks send each other, counted where torch hands it to the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# The operations of torch that are collectives: called by themselves, or as functions that return something new.
COLLECTIVES = ("c10d", "_c10d_functional")
# Those after which every rank has what it had a part of, or nothing. All others reduce: sums, means and maxima.
SPREADING = ("gather", "broadcast")


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch gives it no types
    """Counts, while it is entered, the bytes of whole tensors that collectives work on: what all ranks have together.

    With n ranks an exchange in a ring sends and receives (n - 1) / n of what is gathered or of what is reduced to
    shards on each of them, and twice that where all get the whole sum.

    Attributes:
        reduced: of tensors that are summed over ranks, gradients above all.
        gathered: of tensors that are gathered or broadcast, the weights of shards above all.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reduced = self.gathered = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace in COLLECTIVES:
            whole = max(map(_nbytes, (*args, result)))
            if any(word in func.name() for word in SPREADING):
                self.gathered += whole
            else:
                self.reduced += whole
        return result


def _nbytes(value: Any) -> int:
    """The bytes of all tensors in an argument."""
    if isinstance(value, Tensor):
        return value.nbytes
    return sum(map(_nbytes, value)) if isinstance(value, list | tuple) else 0
