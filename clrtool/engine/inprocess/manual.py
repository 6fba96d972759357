"""Training steps that drive their optimizers themselves, as in Lightning's manual optimization: what is their loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from clrtool.errors import ConfigError

_REPLACED = ("optimizers", "lr_schedulers", "manual_backward", "clip_gradients", "toggle_optimizer",
             "untoggle_optimizer")  # fmt: skip
_ELSE = "give clrtool.range_test a step of your own that returns one loss"


class Manual:
    """What takes the place of a module's optimizers in one call of its step, and finds out what the step trains on.

    A step that calls ``manual_backward`` and then every optimizer once is the step of one loss: the sum of those that
    it gave. Nothing is stepped here, nor is a gradient computed.

    Args:
        optimizers: those of ``configure_optimizers``, whose groups a step may read, to log a learning rate.
        clips: whether the range test was told how to clip, which a step may then ask for.
    """

    def __init__(self, optimizers: Sequence[Optimizer], clips: bool) -> None:
        self._all = [_Resting(self, place, each.param_groups) for place, each in enumerate(optimizers)]
        self._clips = clips
        self._losses: list[Tensor] = []
        self._stepped: set[int] = set()

    def replace_in(self, module: Any) -> None:
        """Let the methods of a module with which it optimizes lead here."""
        module.optimizers, module.lr_schedulers = self._optimizers, _Nothing
        module.manual_backward, module.clip_gradients = self._backward, self._clip
        module.toggle_optimizer = module.untoggle_optimizer = _ignore

    def give_back(self, module: Any) -> None:
        """Let a module use its own optimizers again, where it was trained itself and no copy of it."""
        for name in _REPLACED:
            vars(module).pop(name, None)

    def loss(self) -> Tensor | None:
        """The loss of the step that has just run, or None where it skipped its batch.

        Raises:
            ConfigError: it was no step of one loss.
        """
        losses, stepped, self._losses, self._stepped = self._losses, self._stepped, [], set()
        if not losses and not stepped:
            return None
        if not losses:
            raise ConfigError(
                "module: its training_step steps its optimizers without self.manual_backward(loss), so its loss is not "
                f"known: call that in place of loss.backward(), or {_ELSE}"
            )
        if len(stepped) < len(self._all):
            raise ConfigError(
                f"module: its training_step steps {len(stepped)} of its {len(self._all)} optimizers with a batch. For "
                "gradients of several batches let it step them all with each, and give the range test accumulate=N; "
                f"for any other reason {_ELSE}"
            )
        return sum(losses[1:], losses[0])

    def _optimizers(self, use_pl_optimizer: bool = True) -> Any:  # noqa: ARG002 (Lightning's signature)
        return self._all[0] if len(self._all) == 1 else self._all

    def _backward(self, loss: Tensor, *_: Any, **__: Any) -> None:
        if self._stepped:
            raise ConfigError(
                "module: optimizes manually, with a loss for each of its optimizers: none says how it trains. "
                f"Of two networks that are trained against each other test one, the other held as it is: {_ELSE}"
            )
        self._losses.append(loss)

    def _clip(self, *_: Any, **__: Any) -> None:
        if not self._clips:
            raise ConfigError(
                "module: its training_step clips gradients, which a range test does by itself: give it clip_norm=N or "
                "clip_value=N with the same limit"
            )

    def step(self, place: int, closure: Any) -> Any:
        if closure is not None:
            raise ConfigError(f"module: its training_step gives its optimizer a closure: {_ELSE}")
        if place in self._stepped:
            raise ConfigError(f"module: its training_step steps an optimizer twice with one batch: {_ELSE}")
        self._stepped.add(place)

    def cleared(self) -> None:
        if self._losses and not self._stepped:
            raise ConfigError(
                "module: its training_step clears gradients between self.manual_backward(loss) and the step of its "
                f"optimizers: {_ELSE}"
            )


class _Resting:
    """An optimizer that only notes what it is told."""

    def __init__(self, owner: Manual, place: int, groups: Sequence[dict[str, Any]]) -> None:
        self._owner, self._place = owner, place
        self.param_groups = [{name: group[name] for name in group if name != "params"} for group in groups]

    def step(self, closure: Any = None, **_: Any) -> Any:
        return self._owner.step(self._place, closure)

    def zero_grad(self, *_: Any, **__: Any) -> None:
        self._owner.cleared()

    @contextmanager
    def toggle_model(self, *_: Any, **__: Any) -> Iterator[None]:
        yield

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # which are asked for by whoever copies it
            raise AttributeError(name)
        raise ConfigError(f"module: its training_step asks an optimizer for {name!r} while it optimizes: {_ELSE}")


class _Nothing:
    """A scheduler, or a list of any number of them, whose steps do nothing: the range test sets the rates."""

    def step(self, *_: Any, **__: Any) -> None:
        return

    def __getitem__(self, place: int) -> _Nothing:
        return self


def _ignore(*_: Any, **__: Any) -> None:
    return
