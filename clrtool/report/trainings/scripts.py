"""The schedules that a Python file makes: torch's and transformers', in Lightning's ``configure_optimizers`` or not.

The file is parsed and never run.
"""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from clrtool.core.planning.finding import OPTIMIZERS, Stepped
from clrtool.core.sources import SOURCES, takes
from clrtool.errors import ConfigError, reason
from clrtool.report.trainings.configs import training_arguments
from clrtool.report.trainings.found import Found, Known, Open, known_source
from clrtool.report.trainings.mmengine import find_param_scheduler
from clrtool.report.trainings.names import Names, entries, last_word

_TORCH, _TRANSFORMERS = "torch.optim.lr_scheduler.", "transformers.get_scheduler:"
# The functions of transformers, each with the word by which get_scheduler knows it.
FUNCTIONS = {
    "get_constant_schedule": "constant",
    "get_constant_schedule_with_warmup": "constant_with_warmup",
    "get_linear_schedule_with_warmup": "linear",
    "get_cosine_schedule_with_warmup": "cosine",
    "get_cosine_with_hard_restarts_schedule_with_warmup": "cosine_with_restarts",
    "get_polynomial_decay_schedule_with_warmup": "polynomial",
    "get_inverse_sqrt_schedule": "inverse_sqrt",
    "get_cosine_with_min_lr_schedule_with_warmup": "cosine_with_min_lr",
    "get_cosine_with_min_lr_schedule_with_warmup_lr_rate": "cosine_warmup_with_min_lr",
    "get_wsd_schedule": "warmup_stable_decay",
}
_METRIC = ("ReduceLROnPlateau", "get_reduce_on_plateau_schedule", "get_greedy_schedule")
# What a call may carry that says nothing of the learning rate.
_ASIDE = ("optimizer", "last_epoch", "verbose", "name")


@dataclass(frozen=True)
class _Calls:
    """The calls of a file that make schedules, and how often Lightning steps those in ``configure_optimizers``."""

    names: Names
    steps: Mapping[int, Stepped]
    file: Path

    def source(self, call: ast.Call) -> str | None:
        """The full name of the schedule that a call makes, None if it makes none."""
        word = last_word(call.func) or ""
        if word == "get_scheduler":
            first = self.names.keywords(call).get("name")
            name = self.names.value(first or (call.args or [ast.Constant(None, lineno=call.lineno)])[0])
            return f"{_TRANSFORMERS}{name}" if isinstance(name, str) else None
        if word in FUNCTIONS:
            return _TRANSFORMERS + FUNCTIONS[word]
        return _TORCH + word if _TORCH + word in SOURCES and word not in _METRIC else None

    def params(self, call: ast.Call, source: str) -> dict[str, Any]:
        """The arguments of a call by their names, the optimizer left out; parts of a schedule are schedules again."""
        words = positions(source, in_get_scheduler=last_word(call.func) == "get_scheduler")
        placed = dict(zip(words, call.args, strict=False))
        given = placed | self.given(call)
        special = given.pop("scheduler_specific_kwargs", None)
        values = {
            word: self._parts(value) if word == "schedulers" else self.names.value(value)
            for word, value in given.items()
            if word not in _ASIDE
        }
        more = (self.names.value(special) if special is not None else None) or {}
        if special is not None and not isinstance(more, Mapping):
            raise self._not_said(call, special)
        return {word: value for word, value in values.items() if value is not None} | dict(more)

    def given(self, call: ast.Call) -> dict[str, ast.expr]:
        """The arguments that a call gives by name. Raises ConfigError where a ``**`` or ``*`` may give others."""
        given = self.names.keywords(call)
        if "**" in given:
            raise self._not_said(call, given["**"])
        return given

    def _not_said(self, call: ast.Call, rest: ast.expr) -> ConfigError:
        return ConfigError(
            f"{self.file}:{rest.lineno}: {last_word(call.func)} is given arguments by {ast.unparse(rest)}, and "
            "this file does not say all of them: give the schedule with --from"
        )

    def _parts(self, node: ast.expr) -> Any:
        """A list of schedulers, each as ``{"type": NAME, ...}``."""
        (listed, *others) = self.names.expressions(node)
        if others or not isinstance(listed, ast.List | ast.Tuple):
            return Open(ast.unparse(node), node.lineno)
        return [self._part(item) for item in listed.elts]

    def _part(self, node: ast.expr) -> Any:
        (made, *others) = self.names.expressions(node)
        source = self.source(made) if isinstance(made, ast.Call) else None
        if others or source is None:
            return Open(ast.unparse(node), node.lineno)
        assert isinstance(made, ast.Call)
        return {"type": source} | self.params(made, source)

    def inner(self, calls: list[ast.Call]) -> set[int]:
        """Those that are parts of others."""
        lists = [
            self.names.expressions(value)
            for call in calls
            for value in [*call.args, *(each.value for each in call.keywords)]
        ]
        items = [
            item for found in lists for each in found if isinstance(each, ast.List | ast.Tuple) for item in each.elts
        ]
        return {id(made) for item in items for made in self.names.expressions(item)}


def find_in_script(file: Path, text: str, known: Known) -> tuple[Found, ...]:
    """The schedules of a Python file, in the order of its lines.

    Raises:
        ConfigError: it is no Python, makes none, or one that cannot be known before the training.
    """
    tree = _parse(file, text)
    names = Names(tree, known)
    reader = _Calls(names, dict(_lightning(tree, names, file)), file)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    schedulers = [call for call in calls if reader.source(call)]
    inner = reader.inner(schedulers)
    found = [_found(call, reader, file) for call in schedulers if id(call) not in inner]
    found += [_arguments(call, reader, known) for call in calls if _is_arguments(call)]
    found += filter(None, [find_param_scheduler(tree, names, file, known)])
    if not found:
        _refuse(file, calls)
    return tuple(sorted(found, key=lambda each: int(each.place.rpartition(":")[2])))


def _refuse(file: Path, calls: Sequence[ast.Call]) -> NoReturn:
    """Raise ConfigError that says why a file with these calls has no schedule that is read."""
    for call in calls:
        name = last_word(call.func) or ""
        if name in _METRIC:
            raise ConfigError(
                f"{file}:{call.lineno}: {name} follows a metric: what it does is not known before the training"
            )
        whose = [full.split(".")[0] for full in SOURCES if re.split("[.:]", full)[-1] == name]
        if whose:
            known = " or ".join(f"--from {system}:{name}" for system in whose)
            raise ConfigError(f"{file}:{call.lineno}: {name} is not read off a script: give it with {known}")
    raise ConfigError(
        f"{file}: makes no scheduler of torch or transformers and no TrainingArguments; give its schedule with "
        "--from, such as --from torch:CyclicLR"
    )


def positions(source: str, *, in_get_scheduler: bool = False) -> list[str]:
    """The arguments of a scheduler by their places; ``base_lr`` has one only where it is no optimizer's."""
    if in_get_scheduler:
        return ["name", "optimizer", "num_warmup_steps", "num_training_steps", "scheduler_specific_kwargs"]
    own = source == _TORCH + "CyclicLR"
    parameters = inspect.signature(SOURCES[source]).parameters.values()
    named = [each.name for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD]
    words = [word for word in named if own or word != "base_lr"]
    return words if source == _TORCH + "ChainedScheduler" else ["optimizer", *words]


def _parse(file: Path, text: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in the texts of others
            tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, int):
                str(node.value)  # as a message would write it, which one of many hexadecimal digits cannot be
        return tree
    except SyntaxError as error:
        why = reason(ValueError(error.msg))
        raise ConfigError(f"{file}:{error.lineno or 1}: not valid Python: {why}") from error
    except (ValueError, RecursionError, MemoryError) as error:  # the last where its stack is full
        why = reason(error) or "it is nested too deeply"
    raise ConfigError(f"{file}: not valid Python: {why}")


def _found(call: ast.Call, reader: _Calls, file: Path) -> Found:
    place = f"{file}:{call.lineno}"
    source = known_source(reader.source(call) or "", place)
    params = reader.params(call, source)
    made = _optimizer(call, reader.names)
    kinds = {last_word(each.func) for each in made}
    if takes(source, "base_lr") and "base_lr" not in params:
        params["base_lr"] = _same([_argument(each, "lr", 1, reader.names) for each in made], call)
    momentum, decay = (
        _same([_argument(each, name, 2, reader.names) for each in made], call) for name in ("momentum", "weight_decay")
    )
    return Found(place=place, source=source, params=params, stepped=reader.steps.get(id(call)),
                 optimizer=kinds.pop() if len(kinds) == 1 else None,
                 momentum=momentum if isinstance(momentum, int | float) else 0.0,
                 weight_decay=decay if isinstance(decay, int | float) else 0.0)  # fmt: skip


def _optimizer(call: ast.Call, names: Names) -> list[ast.Call]:
    """The optimizers of torch that a scheduler may have been given."""
    given = next((each.value for each in call.keywords if each.arg == "optimizer"), None)
    candidates = [given] if given is not None else call.args
    found = [made for node in candidates for made in names.expressions(node)]
    made = [each for each in found if isinstance(each, ast.Call) and last_word(each.func) in OPTIMIZERS]
    if made or not call.args or not isinstance(call.args[0], ast.List):
        return made
    return [each for part in call.args[0].elts for inner in names.expressions(part)
            if isinstance(inner, ast.Call) for each in _optimizer(inner, names)]  # fmt: skip


def _argument(call: ast.Call, name: str, place: int, names: Names) -> Any:
    node = names.keywords(call).get(name)
    if node is None and name == "lr" and len(call.args) > place:
        node = call.args[place]
    return None if node is None else names.value(node)


def _same(values: list[Any], call: ast.Call) -> Any:
    """The value that all have."""
    if values and values[0] is not None and all(value == values[0] for value in values):
        return values[0]
    return Open("the optimizer's learning rate", call.lineno)


def _lightning(tree: ast.Module, names: Names, file: Path) -> Iterator[tuple[int, Stepped]]:
    """How often Lightning steps what ``configure_optimizers`` makes: once per epoch unless a dict says otherwise."""
    functions = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == "configure_optimizers"
    )
    for function in functions:
        yield from ((id(node), "epoch") for node in ast.walk(function) if isinstance(node, ast.Call))
        for said in filter(None, map(entries, ast.walk(function))):
            if "scheduler" not in said:
                continue
            interval = names.value(said["interval"]) if "interval" in said else "epoch"
            every = names.value(said["frequency"]) if "frequency" in said else 1
            if every != 1 or interval not in ("step", "epoch"):
                wrong, rule = ("frequency", "must be 1") if every != 1 else ("interval", "must be 'step' or 'epoch'")
                node = said[wrong]
                raise ConfigError(
                    f"{file}:{node.lineno}: {wrong} {rule} for a check, not {ast.unparse(node)}; use --from"
                )
            stepped: Stepped = "iteration" if interval == "step" else "epoch"
            yield from ((id(made), stepped) for made in names.expressions(said["scheduler"]))


def _is_arguments(call: ast.Call) -> bool:
    return (last_word(call.func) or "").endswith("TrainingArguments") and bool(call.keywords)


def _arguments(call: ast.Call, reader: _Calls, known: Known) -> Found:
    given = reader.given(call)
    values = {word: reader.names.value(value) for word, value in given.items()}
    lines = {word: value.lineno for word, value in given.items()}
    return training_arguments(values, f"{reader.file}:{call.lineno}", known, lines)
