"""The schedule of a DeepSpeed config, of TrainingArguments, or written out in parts, in a JSON or YAML file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from clrtool.config.strict_yaml import Document, read_yaml
from clrtool.core.planning.finding import OPTIMIZERS
from clrtool.core.sources import SOURCES, takes
from clrtool.errors import ConfigError
from clrtool.report.trainings.found import Found, Known, Open, known_source
from clrtool.report.trainings.sections import find_section, line_of, number, written_out
from clrtool.words import shortened

_DEEPSPEED = (
    "zero_optimization",
    "train_micro_batch_size_per_gpu",
    "train_batch_size",
    "zero_allow_untested_optimizer",
)
# What timm's scripts call their schedulers.
_TIMM = {
    "cosine": "Cosine",
    "tanh": "Tanh",
    "step": "Step",
    "multistep": "MultiStep",
    "poly": "Poly",
    "plateau": "Plateau",
}
_ARGUMENTS = ("num_train_epochs", "max_steps", "per_device_train_batch_size", "warmup_steps", "warmup_ratio")


def find_in_config(file: Path, text: str, known: Known) -> tuple[Found, ...] | None:
    """The schedule of a file, None if it is of none of these kinds.

    Raises:
        ConfigError: it is one of them, and has no schedule that can be read.
    """
    document = read_yaml(text.replace("\t", " "), str(file))  # a tab indents JSON and is no YAML
    values = document.value
    if not isinstance(values, Mapping):
        return None
    if isinstance(inner := values.get("deepspeed_config"), Mapping):
        other = inner.get("deepspeed_config_file")
        raise ConfigError(
            f"{file}:{line_of(document, 'deepspeed_config')}: a config of accelerate, which has no schedule; that of "
            f"the training is {f'in {other}' if other else 'made by its script'}: lint that"
        )
    if any(name in values for name in _DEEPSPEED) or set(_mapping(values.get("scheduler"))) == {"type", "params"}:
        return (_deepspeed(document, known),)
    _check_own_name(document)
    if "lr_scheduler_type" in values or ("learning_rate" in values and any(name in values for name in _ARGUMENTS)):
        line = line_of(document, "lr_scheduler_type" if "lr_scheduler_type" in values else "learning_rate")
        lines = {name: line_of(document, name) for name in values}
        return (training_arguments(values, f"{file}:{line}", known, lines),)
    found = find_section(document, known) or written_out(document)
    return None if found is None else (found,)


def _deepspeed(document: Document, known: Known) -> Found:
    """``auto`` is what transformers puts there: its learning rate and its warm-up, which are the user's to say."""
    scheduler = document.value.get("scheduler")
    if not isinstance(scheduler, Mapping) or not isinstance(scheduler.get("type"), str):
        raise ConfigError(
            f"{document.name}: a DeepSpeed config without a scheduler section keeps the optimizer's learning rate, "
            "unless a program sets it; give its schedule with --from, such as --from deepspeed:WarmupLR"
        )
    place, name = f"{document.name}:{line_of(document, 'scheduler', 'type')}", scheduler["type"]
    own = f"deepspeed.runtime.lr_schedules.{name}"
    source = own if own in SOURCES else known_source(f"torch.optim.lr_scheduler.{name}", place)
    params = {
        word: _automatic(word, value, line_of(document, "scheduler", "params", word), known)
        for word, value in _mapping(scheduler.get("params")).items()
    }
    optimizer = _mapping(document.value.get("optimizer"))
    given = _mapping(optimizer.get("params"))
    if takes(source, "base_lr") and "base_lr" not in params and not params.get("warmup_max_lr"):
        lr = given.get("lr", "the optimizer's learning rate")
        line = line_of(document, *(("optimizer", "params", "lr") if "lr" in given else ("scheduler", "type")))
        params["base_lr"] = Open(repr(lr), line) if isinstance(lr, str) else lr
    kind = {word.lower(): word for word in OPTIMIZERS}.get(str(optimizer.get("type")).lower())
    momentum, total = given.get("momentum", 0.0), params.get("total_num_steps")
    return Found(place=place, source=source, params=params, optimizer=kind,
                 iterations=total if isinstance(total, int) else None,
                 momentum=number(momentum), weight_decay=number(given.get("weight_decay")))  # fmt: skip


def _automatic(name: str, value: Any, line: int, known: Known) -> Any:
    if value != "auto":
        return value
    filled = {"warmup_min_lr": 0, "total_num_steps": known.iterations}.get(name)
    return Open("'auto'", line, "--iterations" if name == "total_num_steps" else "") if filled is None else filled


def _check_own_name(document: Document) -> None:
    """Raise ConfigError where a schedule is named in another program's words, not those that Trainer takes."""
    values = document.value
    if isinstance(name := values.get("lr_scheduler"), str) and "lr_scheduler_type" not in values:
        raise ConfigError(
            f"{document.name}:{line_of(document, 'lr_scheduler')}: TrainingArguments have an lr_scheduler_type and no "
            "lr_scheduler: a config of another program; give its schedule with --from"
            f"{f', such as --from transformers:{name}' if f'transformers.get_scheduler:{name}' in SOURCES else ''}"
        )
    if isinstance(name := values.get("sched"), str) and name in _TIMM:
        raise ConfigError(
            f"{document.name}:{line_of(document, 'sched')}: sched is a word of timm's scripts, whose arguments are not "
            f"read: give the schedule with --from timm:{_TIMM[name]}LRScheduler"
        )


def training_arguments(values: Mapping[str, Any], place: str, known: Known, lines: Mapping[str, int]) -> Found:
    """What transformers' Trainer makes of its arguments; ``lines`` is where each is written.

    Raises:
        ConfigError: the schedule is not known, follows a metric, or its length is not said.
    """
    name = values.get("lr_scheduler_type", "linear")
    if isinstance(name, Open):
        raise ConfigError(f"{place}: lr_scheduler_type is {name.text}, which this file does not say: use --from")
    name = str(name).rpartition(".")[2].lower()  # SchedulerType.COSINE
    if name in ("reduce_lr_on_plateau", "reduce_on_plateau", "greedy"):
        raise ConfigError(f"{place}: {name} follows a metric: what it does is not known before the training")
    source = known_source(f"transformers.get_scheduler:{name}", place)
    steps = _steps(values, known)
    if steps is None and (takes(source, "num_training_steps") and name != "inverse_sqrt"):
        raise ConfigError(
            f"{place}: how many iterations an epoch has depends on the data: give --iterations-per-epoch, or "
            "--iterations for the whole training"
        )
    every = {"base_lr": values.get("learning_rate", 5e-5), "num_training_steps": steps,
             "num_warmup_steps": _warmup(values, steps, lines, place)}  # fmt: skip
    params = {word: value for word, value in every.items() if takes(source, word) and value is not None}
    params |= _own_arguments(values, lines, place)
    return Found(place=place, source=source, params=params, optimizer=_optimizer(values), iterations=steps,
                 weight_decay=number(values.get("weight_decay")))  # fmt: skip


def _own_arguments(values: Mapping[str, Any], lines: Mapping[str, int], place: str) -> dict[str, Any]:
    """The arguments of the schedule itself, a mapping or, as on a command line, the JSON of one."""
    given = values.get("lr_scheduler_kwargs") or {}
    with suppress(ValueError):
        given = json.loads(given) if isinstance(given, str) else given
    if not isinstance(given, Mapping):
        told = given.text if isinstance(given, Open) else repr(given)
        file = place.rpartition(":")[0]
        raise ConfigError(
            f"{file}:{lines.get('lr_scheduler_kwargs', 1)}: lr_scheduler_kwargs must be a mapping that this file says, "
            f"not {shortened(told)}; give its schedule with --from"
        )
    return dict(given)


def _steps(values: Mapping[str, Any], known: Known) -> int | None:
    """``max_steps`` if it is above 0, else whole epochs; what the user says first."""
    if known.iterations is not None:
        return known.iterations
    most, epochs = values.get("max_steps", -1), values.get("num_train_epochs", 3)
    if isinstance(most, int) and most > 0:
        return most
    if known.iterations_per_epoch is None or not isinstance(epochs, int | float):
        return None
    return math.ceil(epochs * known.iterations_per_epoch)


def _warmup(values: Mapping[str, Any], steps: int | None, lines: Mapping[str, int], place: str) -> Any:
    """A number of iterations, or below 1 a share of the training; a ``warmup_ratio`` counts where that is 0."""
    warmup = values.get("warmup_steps") or 0
    name = "warmup_steps" if warmup else "warmup_ratio"
    warmup = warmup or values.get("warmup_ratio") or 0
    if isinstance(warmup, Open):
        return warmup
    if not isinstance(warmup, int | float) or warmup < 0:
        file = place.rpartition(":")[0]
        raise ConfigError(f"{file}:{lines.get(name, 1)}: {name} must be a number from 0 on, got {warmup!r}")
    if warmup >= 1 and name == "warmup_steps":
        return int(warmup)
    return Open(f"a share of the training, {warmup:g}", lines.get(name, 1)) if steps is None and warmup else (
        math.ceil((steps or 0) * warmup)
    )  # fmt: skip


def _optimizer(values: Mapping[str, Any]) -> str | None:
    """``adamw_torch_fused`` is an AdamW."""
    word = str(values.get("optim", "adamw")).rpartition(".")[2].lower().split("_")[0]
    return {name.lower(): name for name in OPTIMIZERS}.get(word)


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
