"""Several optimizers that step together, as one: Muon for matrices and AdamW for the rest, say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar

from torch.optim import Optimizer

from clrtool.errors import ConfigError


class JointOptimizer(Optimizer):
    """Optimizers of different parameters, whose groups lie one after the other. A step is one of each.

    It has no state of its own, so stepping the optimizers themselves, as a training loop does, is the same.

    Raises:
        ConfigError: there is none, or a parameter belongs to two of them.
    """

    # A loop steps the optimizers themselves, so torch's schedulers do not see whether that came first.
    _opt_called: ClassVar[bool] = True

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers, self.defaults = tuple(optimizers), {}
        parameters = [id(each) for group in self.param_groups for each in group["params"]]
        if not parameters or len({*parameters}) < len(parameters):
            raise ConfigError("optimizer: several must have parameters, and each parameter belong to one of them")

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of all, those of the first one first."""
        return [*chain.from_iterable(each.param_groups for each in self.optimizers)]

    @property
    def state(self) -> dict[Any, Any]:  # type: ignore[override]
        """What they keep of each parameter."""
        return {name: kept for each in self.optimizers for name, kept in each.state.items()}

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """A step of each; ``closure`` is for those that cannot do without."""
        for each in self.optimizers:
            each.step() if closure is None else each.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for each in self.optimizers:
            each.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """``{"optimizers": [state of each]}``."""
        return {"optimizers": [each.state_dict() for each in self.optimizers]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Put back a :meth:`state_dict`."""
        for each, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            each.load_state_dict(state)


def joined(optimizer: Any) -> Any:
    """A list or tuple of optimizers as one; a list of one as that; anything else as it is."""
    several = isinstance(optimizer, list | tuple) and len(optimizer) > 0
    if not several or not all(isinstance(each, Optimizer) for each in optimizer):
        return optimizer
    return optimizer[0] if len(optimizer) == 1 else JointOptimizer(optimizer)


def set_mode(optimizer: Optimizer, mode: str) -> None:
    """Have an optimizer that knows modes, ``train`` and ``eval``, put the weights that belong to one in place."""
    for each in getattr(optimizer, "optimizers", (optimizer,)):
        if has_modes(each):
            getattr(each, mode)()


def has_modes(optimizer: Optimizer) -> bool:
    """Whether the weights in training are not those to evaluate, as of schedule-free optimizers."""
    parts = getattr(optimizer, "optimizers", (optimizer,))
    return any(callable(getattr(each, "train", None)) and callable(getattr(each, "eval", None)) for each in parts)
