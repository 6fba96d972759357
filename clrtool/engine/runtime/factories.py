"""Calls that a config names: built-ins by keyword, and user code only when the command line allows its import."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError

from clrtool.config.errors import rule
from clrtool.engine.runtime.distributed import LOST, is_lost
from clrtool.engine.runtime.gpu_errors import told
from clrtool.engine.runtime.imports import import_module, is_users, places_of_code
from clrtool.errors import ConfigError, MachineError
from clrtool.words import nearest, shown

T = TypeVar("T")
# ('pkg.module:callable', field of the config) -> the callable, if its import is allowed.
FactoryImport = Callable[[str, str], Callable[..., Any]]
# What torch says that is to compile a model on a machine without a compiler, whatever it makes of it on its way.
_NO_COMPILER = "No working C++ compiler found"
# What is no fault of the code that meets it, or is told of in our own words already.
AS_IT_IS = (ConfigError, MachineError, MemoryError, torch.OutOfMemoryError)
# Lines of a user's own code that a message names.
SHOWN_FRAMES = 3


def import_factory(factory: str, field: str, allowed: Iterable[str], folder: Path) -> Callable[..., Any]:
    """Import ``pkg.module:callable`` for a config field, if a pattern of ``--allow-import`` covers it.

    A factory file may stand in ``folder``, where the config lies, or in the current one. None can take the place of an
    installed package that was allowed, nor of anything that such a package imports.

    Raises:
        ConfigError: the import is not allowed, fails, or gives nothing callable.
    """
    if any(part.startswith("_") for part in factory.replace(":", ".").split(".")):
        raise ConfigError(f"{field} = {factory!r} is private; a factory needs a public name")
    if not any(covers(pattern, factory) for pattern in allowed):
        given = ", ".join(f"--allow-import {pattern!r}" for pattern in allowed)
        why = (
            f"and {given} does not cover it, because a pattern is module:callable, module:* or package.*"
            if given
            else "and a config may run code only if the command line allows it"
        )
        fix = f"--allow-import '{factory.partition(':')[0]}:*'"
        raise ConfigError(f"{field} = {factory!r} is code, {why}: add {fix} if you trust it")
    module_name, _, name = factory.partition(":")
    with blamed_on(f"{field}: importing {module_name!r}"):
        module = import_module(module_name, places_of_code(folder))
    found = getattr(module, name, None)
    if not callable(found):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigError(f"{field}: {module_name!r} has no callable {name!r}; {nearest(name, public)}")
    return found  # type: ignore[no-any-return]


def covers(pattern: str, factory: str) -> bool:
    """Whether an ``--allow-import`` pattern, exact or ending in ``.*`` or ``:*``, covers a factory.

    >>> covers("mine.models:*", "mine.models:net"), covers("mine.*", "mine.models:net"), covers("mine:*", "os:system")
    (True, True, False)

    Raises:
        ConfigError: the pattern is a bare ``*`` or has a star anywhere but after a dot or a colon at its end.
    """
    stem = pattern.removesuffix("*")
    if "*" in stem or (stem != pattern and not stem.endswith((".", ":"))) or not stem.strip(".:"):
        raise ConfigError(f"--allow-import {pattern!r}: give 'pkg.module:name', 'pkg.module:*' or 'pkg.*'")
    return factory.startswith(stem) if stem != pattern else factory == pattern


def call(function: Callable[..., T], field: str, args: Mapping[str, Any]) -> T:
    """Call with the user's ``args`` by keyword; ``field`` is where the config holds them.

    Raises:
        ConfigError: an argument is unknown or missing, or the call itself fails.
    """
    check_arguments(function, field, args)
    with blamed_on(field):
        return function(**args)


@contextmanager
def blamed_on(field: str) -> Iterator[None]:
    """Turn whatever code that is not ours raises, an exit included, into a ConfigError for a field.

    Running out of memory stays what it is, and so does the death of a worker. That of a rank is a MachineError, and
    what a GPU says is told without the field.
    """
    try:
        yield
    except AS_IT_IS:
        raise
    except (Exception, SystemExit) as error:
        if "can't allocate memory" in str(error):  # torch has no class of its own for a CPU's
            raise MemoryError(describe(error)) from error
        if is_worker_death(error):
            raise
        if (of_gpu := told(error)) is not None:
            raise of_gpu from error
        if is_lost(error):
            raise MachineError(LOST) from error
        if _NO_COMPILER in str(error):
            raise MachineError(
                "training.compile: torch finds no C++ compiler that works: install one, such as g++, or leave it out"
            ) from error
        raise ConfigError(f"{field}: {describe(error)}") from error


def is_worker_death(error: BaseException) -> bool:
    """Whether a worker of a DataLoader was killed or hangs: torch raises it wherever the program stands just then."""
    text = str(error) if isinstance(error, RuntimeError) else ""
    return "DataLoader worker" in text or "DataLoader timed out" in text


def check_arguments(function: Callable[..., Any], field: str, args: Mapping[str, Any]) -> None:
    """Raise ConfigError for an argument that the function lacks, or that it needs and did not get."""
    # A partial's signature shows what it was given by keyword as a default; that is ours, not the user's to set.
    ours = set(function.keywords) if isinstance(function, partial) else set()
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in types have none, and some calls do not fit: the call will tell
        return
    parameters = [each for each in signature.parameters.values() if each.name not in ours]
    named = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    offered = [each.name for each in named]
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
    for name in args:
        if name in ours or (name not in offered and not takes_any):
            raise ConfigError(f"{field}: unknown argument {shown(name)}; {nearest(name, offered)}")
    if missing := [each.name for each in named if each.default is each.empty and each.name not in args]:
        needed = ", ".join(f"{name}: ..." for name in missing)
        names = ", ".join(map(repr, missing))
        raise ConfigError(f"{field}: missing argument {names}: give it in the config as args: {{{needed}}}")
    plain = function.func if isinstance(function, partial) else function
    if str(getattr(plain, "__module__", "")).startswith("clrtool."):
        _check_types(plain, field, args)


def _check_types(function: Callable[..., Any], field: str, args: Mapping[str, Any]) -> None:
    """Hold the arguments of one of our own functions against its annotations."""
    hints = get_type_hints(function, include_extras=True)
    for name, value in args.items():
        try:
            TypeAdapter(hints.get(name, Any), config=ConfigDict(strict=True)).validate_python(value)
        except ValidationError as error:
            rules = " or ".join(dict.fromkeys(rule(each) for each in error.errors()))
            raise ConfigError(f"{field}.{name} = {shown(value)} {rules}") from None


def describe(error: BaseException) -> str:
    """An exception in one line: its type, its text and the lines of the user's own code that led to it, the last first.

    >>> describe(ValueError("no"))
    'ValueError: no'
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    places = ", from ".join(f"{frame.filename}:{frame.lineno}" for frame in frames[: -SHOWN_FRAMES - 1 : -1])
    place = f" ({places})" if frames else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}{place}"


def _is_users(filename: str) -> bool:
    return not filename.startswith("<") and is_users(Path(filename))
