"""A training under way, as others save it: weights, the optimizer's state, and how far it has come.

A file of torch, ``.safetensors``, a ``.ckpt`` of Lightning, or a folder of transformers. Nothing of it is run, and no
more is allocated than it holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from clrtool.engine.models.pretrained import Weights, check_tensors, read_file, weights_in
from clrtool.errors import ConfigError, MachineError, reason
from clrtool.files import open_plain, read_text

FIELD = "start"
# The names by which a file holds what a training is made of; the first that is there counts.
OPTIMIZER = ("optimizer_states", "optimizer_state_dict", "optimizer_state", "optimizer", "optim")
STEPS = ("global_step", "step", "steps", "iteration", "iterations")
SCHEDULER = ("lr_schedulers", "lr_scheduler_state_dict", "scheduler_state_dict", "lr_scheduler", "scheduler", "sched")
# The files of a folder of transformers: weights in one of two forms.
WEIGHTS, STATE, PROGRESS = ("model.safetensors", "pytorch_model.bin"), "optimizer.pt", "trainer_state.json"
# Containers in one another that are looked through; an optimizer's state has four.
_DEEPEST = 20


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a checkpoint holds.

    Args:
        path: the file or the folder.
        weights: tensors by the names of the model's.
        optimizers: the state of each optimizer, as torch saves it; none where it holds weights alone.
        steps, epochs: optimizer steps and epochs that are done; None where it does not say so.
        scheduled: steps of its first scheduler.
    """

    path: Path
    weights: Weights
    optimizers: tuple[Mapping[str, Any], ...] = ()
    steps: int | None = None
    epochs: float | None = None
    scheduled: int | None = None

    @property
    def stepped(self) -> int | None:
        """The steps that its optimizers have counted, as those do that correct a bias; None of others."""
        states = (state for saved in self.optimizers for state in saved["state"].values())
        counts = (_count(_number(state.get("step"))) for state in states)
        return max((int(each) for each in counts if each), default=None)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ConfigError: it is none, or holds what cannot be read without running it.
        MachineError: it is not there.
    """
    try:
        if path.is_dir():
            return _read_folder(path)
    except OSError as error:  # closed to this user, or no name of a file
        raise MachineError(f"{FIELD}: {path} cannot be read: {error.strerror}") from error
    found = read_file(path, FIELD)
    weights = weights_in(found, path, FIELD)
    if not isinstance(found, Mapping) or all(isinstance(each, Tensor) for each in found.values()):
        return Checkpoint(path, weights)
    state = next((found[name] for name in OPTIMIZER if found.get(name) is not None), ())
    states = state if isinstance(state, list | tuple) else (state,)
    steps = next((found[name] for name in STEPS if name in found), None)
    scheduler = next((found[name] for name in SCHEDULER if found.get(name)), None)
    scheduler = scheduler[0] if isinstance(scheduler, list | tuple) else scheduler
    scheduled = _count(scheduler.get("last_epoch")) if isinstance(scheduler, Mapping) else None
    return Checkpoint(path, weights, _states(states, path), _count(steps), _count(found.get("epoch")), scheduled)


def checkpoint_sha256(path: Path) -> str | None:
    """Hash of a file, or of the files of a folder; None where there is none."""
    content = hashlib.sha256()
    try:
        for file in files_of(path):
            with open_plain(file) as opened:
                content.update(hashlib.file_digest(opened, "sha256").digest())
    except (OSError, ValueError):  # a text with a NUL is no name
        return None
    return content.hexdigest()


def files_of(path: Path) -> list[Path]:
    """The files that a checkpoint is read from."""
    if not path.is_dir():
        return [path]
    return [path / name for name in (*WEIGHTS, STATE, PROGRESS) if (path / name).is_file()]


def _read_folder(path: Path) -> Checkpoint:
    weights = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if weights is None:
        found = ", ".join(sorted(each.name for each in path.iterdir())[:5]) or "nothing"
        raise MachineError(f"{FIELD}: {path} has no {' and no '.join(WEIGHTS)}; it has {found}: give the file itself")
    states: tuple[Mapping[str, Any], ...] = ()
    if (path / STATE).is_file():
        states = _states((read_file(path / STATE, FIELD),), path / STATE)
    steps, epochs = _progress(path / PROGRESS)
    return Checkpoint(path, weights_in(read_file(weights, FIELD), weights, FIELD), states, steps, epochs)


def _progress(file: Path) -> tuple[int | None, float | None]:
    """Steps and epochs, as a folder of transformers says them."""
    if not file.is_file():
        return None, None
    try:
        values = json.loads(read_text(file))
        steps, epochs = _count(values.get("global_step")), _count(values.get("epoch"))
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{FIELD}: {file} cannot be read: {reason(error)}") from error
    return None if steps is None else int(steps), epochs


def _states(states: Sequence[Any], path: Path) -> tuple[Mapping[str, Any], ...]:
    """States of optimizers, each with its groups; checked as weights are."""
    if not all(map(_is_state, states)):
        raise ConfigError(
            f"{FIELD}: {path} holds an optimizer's state that torch did not write: save optimizer.state_dict()"
        )
    bare = tuple(_bare(each, path, 0) for each in states)
    check_tensors(dict(_tensors(bare, "optimizer")), path, FIELD)
    return bare


def _bare(value: Any, path: Path, depth: int) -> Any:
    """The same in plain containers, its tensors without attributes that a file may have set in the place of methods."""
    if depth > _DEEPEST:
        raise ConfigError(
            f"{FIELD}: {path} holds an optimizer's state {depth} containers deep: save optimizer.state_dict()"
        )
    if isinstance(value, Tensor):
        return Tensor.detach(value)
    if isinstance(value, Mapping):
        return {key: _bare(each, path, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        parts = [_bare(each, path, depth + 1) for each in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    return value


def _is_state(value: Any) -> bool:
    """Whether this is what ``state_dict`` of an optimizer of torch gives."""
    if not isinstance(value, Mapping) or not {"state", "param_groups"} <= value.keys():
        return False
    state, groups = value["state"], value["param_groups"]
    return (
        isinstance(state, Mapping)
        and all(isinstance(each, Mapping) for each in state.values())
        and isinstance(groups, list)
        and all(isinstance(group, Mapping) and _are_places(group.get("params")) for group in groups)
    )


def _are_places(value: Any) -> bool:
    """Whether these are numbers of parameters, or names as some wrappers have them."""
    return isinstance(value, list) and all(isinstance(each, int | str) for each in value)


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested containers, by where they are."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _tensors(each, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for place, each in enumerate(value):
            yield from _tensors(each, f"{name}.{place}")


def _number(value: Any) -> Any:
    """A number that may be held in a tensor."""
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _count(value: Any) -> Any:
    """A number of steps or epochs; None for what is none."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53 else None
