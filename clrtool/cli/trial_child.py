"""The process in which what is printed is run.

``{"form", "text", "steps"}`` come in as JSON, ``{"values"}``, a learning rate and a momentum for each step, or
``{"refused"}`` go out.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

# A learning rate, and a momentum where there is one.
Values = tuple[float, float | None]


def main() -> None:
    asked = json.load(sys.stdin)
    package, values_of = _SYSTEMS[asked["form"]]
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(2, 1)  # packages print when they are imported, and when they end
        used = import_module(package)
        try:
            found: dict[str, Any] = {"values": list(values_of(used, asked["text"], asked["steps"]))}
        except Exception as error:  # noqa: BLE001 (whatever a package says of what it is given)
            found = {"refused": f"{type(error).__name__}: {error}"}
        json.dump(found, answer)


def _timm(_: Any, text: str, steps: int) -> Iterator[Values]:
    sgd = _optimizer(text)
    scheduler = _defined(text)["make_scheduler"](sgd)
    for step in range(steps):
        yield _values(sgd)
        scheduler.step_update(step + 1)


def _ignite(_: Any, text: str, steps: int) -> Iterator[Values]:
    sgd = _optimizer(text)
    scheduler = _defined(text)["make_scheduler"](sgd)
    for _step in range(steps):
        scheduler(None)
        yield _values(sgd)


def _mmengine(schedulers: Any, text: str, steps: int) -> Iterator[Values]:
    sgd = _optimizer(text)
    epoch = int(said[1]) if (said := re.search(r"An epoch has (\d+)", text)) else 1
    made = [_mmengine_scheduler(schedulers, sgd, dict(each), epoch) for each in _defined(text)["param_scheduler"]]
    for step in range(1, steps + 1):
        yield _values(sgd)
        sgd.step()
        for scheduler in made:
            if not scheduler.by_epoch or step % epoch == 0:
                scheduler.step()


def _mmengine_scheduler(schedulers: Any, sgd: Any, given: dict[str, Any], epoch: int) -> Any:
    kind = getattr(schedulers, given.pop("type"))
    if given.pop("convert_to_iter_based", False):
        return kind.build_iter_from_epoch(optimizer=sgd, epoch_length=epoch, **given)
    return kind(sgd, **given)


def _composer(_: Any, text: str, steps: int) -> Iterator[Values]:
    time = import_module("composer.core.time")
    scheduler, sgd = _defined(text)["make_scheduler"](), _optimizer(text)
    epoch = int(said[1]) if (said := re.search(r"An epoch has (\d+)", text)) else steps
    duration = re.search(r'max_duration="([^"]+)"', text)
    assert duration is not None
    length = time.Time.from_timestring(duration[1])
    for step in range(steps):
        now = time.Timestamp(epoch=step // epoch, batch=step, batch_in_epoch=step % epoch)
        state = _State(max_duration=length, dataloader_len=time.Time(epoch, "ba"), timestamp=now)
        yield _values(sgd)[0] * scheduler(state), None


class _State:
    """What a scheduler of composer asks of the state of a training."""

    def __init__(self, **facts: Any) -> None:
        self.__dict__.update(facts)


def _deepspeed(schedules: Any, text: str, steps: int) -> Iterator[Values]:
    config = json.loads(text)
    lr = config.get("optimizer", {"params": {"lr": 1.0}})["params"]["lr"]
    adam = _made("Adam", lr=lr)
    scheduler = getattr(schedules, config["scheduler"]["type"])(adam, **config["scheduler"]["params"])
    for _ in range(steps):
        yield _values(adam)
        scheduler.step()


def _defined(text: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(text, names)  # noqa: S102  # nosec B102 # what was just printed, from numbers that were read
    return names


def _optimizer(text: str) -> Any:
    """One with the learning rate that the text says; where it says none it does not matter."""
    said = {name: re.search(rf"\b{name}=([-+.e\d]*\d)", text) for name in ("lr", "momentum")}
    return _made("SGD", **{"lr": 1.0} | {name: float(found[1]) for name, found in said.items() if found})


def _made(kind: str, **numbers: float) -> Any:
    torch = import_module("torch")
    return getattr(torch.optim, kind)([torch.nn.Parameter(torch.zeros(1))], **numbers)


def _values(optimizer: Any) -> Values:
    (group,) = optimizer.param_groups
    return float(group["lr"]), group.get("momentum")


_SYSTEMS: dict[str, tuple[str, Callable[[Any, str, int], Iterator[Values]]]] = {
    "timm": ("timm.scheduler", _timm),
    "ignite": ("ignite.handlers", _ignite),
    "mmengine": ("mmengine.optim.scheduler", _mmengine),
    "composer": ("composer.optim.scheduler", _composer),
    "deepspeed": ("deepspeed.runtime.lr_schedules", _deepspeed),
}

if __name__ == "__main__":
    main()
