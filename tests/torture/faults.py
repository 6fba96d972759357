"""Faults that a run is given before it begins: limits of the system, a kill or a signal at an exact place."""

import atexit
import contextlib
import functools
import importlib
import importlib.util
import io
import itertools
import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import FunctionType, ModuleType

# Where files are written. What does not exist is passed over.
WRITERS = (
    "clrtool.files",
    "clrtool.config.file",
    "clrtool.engine.resume.checkpoint",
    "clrtool.report.records.run",
    "clrtool.report.records.lock",
    "clrtool.report.journal",
)
# System calls that change files, by the names of Python's functions for them.
CALLS = {
    "open", "write", "writelines", "flush", "fsync", "fdatasync", "close", "truncate", "ftruncate", "flock", "lockf",
    "replace", "rename", "link", "symlink", "fchmod", "chmod", "mkdir", "unlink", "remove", "rmdir",
}  # fmt: skip
PACKAGE = str(Path(importlib.util.find_spec("clrtool").origin).parent)


def inject(
    limit_fsize=None,
    limit_as=None,
    user=None,
    umask=None,
    backwards=False,
    kill_at_call=None,
    count_calls=None,
    signal_at=(),
    signal_at_exit=None,
    error_at=(),
):
    """Prepare this process for its fault.

    Args:
        limit_fsize: bytes that a file may hold; more is an OSError.
        limit_as: bytes of memory.
        user: whom to be from here on, where root may do anything.
        umask: the permissions that new files do not get.
        backwards: whether the clock on the wall runs backwards, an hour at each look at it.
        kill_at_call: (event, number): die of SIGKILL when this event happens so many times. An event is a moment
            before or after a system call that changes files; what is about to be written is torn by it.
        count_calls: file that all events and their numbers are written to at the end.
        signal_at: entries of (module:function, number of its call, signal, times): before that call goes on, the
            process sends the signal to itself, ``times`` times.
        signal_at_exit: the signal that the process sends to itself when the interpreter ends.
        error_at: entries of (module:function, number of its call, error number): that call fails; 0 for every call.
    """
    for kind, limit in ((resource.RLIMIT_FSIZE, limit_fsize), (resource.RLIMIT_AS, limit_as)):
        if limit is not None:
            resource.setrlimit(kind, (limit, limit))
    if user is not None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    if umask is not None:
        os.umask(umask)
    if backwards:
        looks = itertools.count()
        time.time = lambda: 2e9 - 3600 * next(looks)
    for place, number, error in error_at:
        _error_at(place, number, error)
    if kill_at_call is not None or count_calls is not None:
        _watch_writers(_Events(kill_at_call, count_calls))
    if signal_at_exit is not None:
        atexit.register(lambda: os.kill(os.getpid(), signal_at_exit))
    for place, call, number, times in reversed(signal_at):  # the last to be wrapped is the first to be called
        _signal_at(place, call, number, times)


class _Events:
    """The events of calls that change files while a function of WRITERS is on the stack."""

    def __init__(self, deadly, report):
        self.deadly, self.counts, self.depth = tuple(deadly or ()), Counter(), 0
        if report is not None:
            atexit.register(lambda: Path(report).write_text(json.dumps(self.counts)))

    def __enter__(self):
        self.depth += 1
        if self.depth == 1:
            sys.setprofile(self.on_event)

    def __exit__(self, *_):
        self.depth -= 1
        if self.depth == 0:
            sys.setprofile(None)

    def on_event(self, frame, event, function):
        if event not in ("c_call", "c_return") or function.__name__ not in CALLS:
            return
        subject = getattr(function, "__self__", None)
        if isinstance(subject, io.BytesIO | io.StringIO) or not isinstance(subject, io.IOBase | ModuleType):
            return
        label = f"{'before' if event == 'c_call' else 'after'} {function.__name__} in {_place(frame)}"
        self.counts[label] += 1
        if self.deadly == (label, self.counts[label]):
            if event == "c_call" and function.__name__ == "write" and isinstance(subject, io.IOBase):
                with contextlib.suppress(OSError, ValueError):
                    subject.write("0,1" if isinstance(subject, io.TextIOBase) else b"0,1")
                    subject.flush()
            os.kill(os.getpid(), signal.SIGKILL)


def _place(frame):
    """The line of clrtool, and that of the caller of its file."""
    places = []
    while frame is not None and len(places) < 2:
        file = frame.f_code.co_filename
        if file.startswith(PACKAGE) and not (places and places[-1].startswith(Path(file).name + ":")):
            places.append(f"{Path(file).name}:{frame.f_lineno}")
        frame = frame.f_back
    return " for ".join(places)


def _watch_writers(events):
    for name in WRITERS:
        with contextlib.suppress(ModuleNotFoundError):
            module = importlib.import_module(name)
            for owner in (module, *(each for each in vars(module).values() if isinstance(each, type))):
                if owner is module or owner.__module__ == name:
                    _watch_functions(owner, name, events)
    files = {sys.modules[name].__file__ for name in WRITERS if name in sys.modules}
    enter, leave = (getattr(contextlib._GeneratorContextManager, name) for name in ("__enter__", "__exit__"))

    def during(method, self, *rest):
        with events if self.gen.gi_code.co_filename in files else contextlib.nullcontext():
            return method(self, *rest)

    contextlib._GeneratorContextManager.__enter__ = functools.partialmethod(functools.partial(during, enter))
    contextlib._GeneratorContextManager.__exit__ = functools.partialmethod(functools.partial(during, leave))


def _watch_functions(owner, module, events):
    for name, function in list(vars(owner).items()):
        plain = function.__func__ if isinstance(function, staticmethod | classmethod) else function
        if isinstance(plain, FunctionType) and plain.__module__ == module:

            @functools.wraps(plain)
            def watched(*arguments, _plain=plain, **options):
                with events:
                    return _plain(*arguments, **options)

            _replace(owner, name, function, type(function)(watched) if plain is not function else watched)


def _signal_at(place, call, number, times):
    """Wrap a function or a method, wherever clrtool holds it by name."""
    module_name, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner = importlib.import_module(module_name)
    for each in owners:
        owner = getattr(owner, each)
    function, calls = getattr(owner, name), 0

    @functools.wraps(function)
    def signalled(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == call:
            for _ in range(times):
                os.kill(os.getpid(), number)
        return function(*arguments, **options)

    _replace(owner, name, function, signalled)


def _error_at(place, call, number):
    """Let a function of the system fail."""
    module_name, _, name = place.partition(":")
    module = importlib.import_module(module_name)
    function, calls = getattr(module, name), 0

    def failing(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == call or not call:
            raise OSError(number, os.strerror(number), *arguments[:1])
        return function(*arguments, **options)

    setattr(module, name, failing)


def _replace(owner, name, old, new):
    setattr(owner, name, new)
    for module in [module for key, module in sys.modules.items() if key.partition(".")[0] == "clrtool"]:
        for key, value in list(vars(module).items()):
            if value is old:
                setattr(module, key, new)
