"""The errors that are a user's business, each with its exit code; anything else is a bug of ours."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class ConfigError(ValueError):
    """User input breaks a rule. ``faults`` has every fault with its place. Exit code 2."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class MachineError(RuntimeError):
    """The machine lacks something: a device, a dataset, memory, space on a disk. Exit code 4."""


class OutOfMemoryError(MachineError):
    """A batch does not fit. In smaller parts it may."""


class BusyError(MachineError):
    """Another process holds the run folder. Exit code 75."""


class Interrupted(BaseException):
    """A signal asked to stop, and what was measured is saved. Exit code 128 + the number of the signal.

    No Exception, so that nothing which guards a user's code takes it for a fault of that code.

    Args:
        way_on: which command goes on from what is saved.
    """

    def __init__(self, signum: int, way_on: str = "the same command") -> None:
        super().__init__(signum)
        self.signum, self.way_on = signum, way_on


INTERNAL = 70
# The first kind that an error is of decides.
_CODES = {ConfigError: 2, BusyError: 75, MachineError: 4, OSError: 4, BaseException: INTERNAL}


# What the system says where it has no more: of memory, of files that may be open, of processes, of a disk.
_LACKING = {errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOSPC, errno.EDQUOT}
# What it says of a file that is not this user's to read or to write, or that its disk does not give.
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE}
_LACKING_TEXTS = ("can't allocate memory", "cannot allocate memory", "can't start new thread", "failed to map segment",
                  "too many open files", "cannot create thread", "unable to allocate shared memory")  # fmt: skip


# What Python says of a whole number that is too long to be read or written.
_LONG_NUMBER = "for integer string conversion"


def exit_code(error: BaseException) -> int:
    """The code with which a command ends that fails in this way.

    Whatever an error became on its way, want of memory, files or processes is a matter of the machine, and so is a file
    that it does not give.
    """
    denied = isinstance(error.__cause__, OSError) and error.__cause__.errno in _DENIED
    if not isinstance(error, MachineError) and (denied or lack_of(error) is not None):
        return _CODES[MachineError]
    return next(code for kind, code in _CODES.items() if isinstance(error, kind))


def lack_of(error: BaseException | None) -> BaseException | None:
    """What the machine had no more of, if that is what an error came of; None else."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _LACKING):
            return error
        if isinstance(error, ImportError | RuntimeError) and any(each in str(error).lower() for each in _LACKING_TEXTS):
            return error
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None


def reason(error: BaseException) -> str:
    """What an error says, without the number that the system has for it, nor what only a programmer can use.

    >>> reason(FileNotFoundError(2, "No such file or directory")), reason(ValueError("no number"))
    ('No such file or directory', 'no number')
    >>> reason(RecursionError("maximum recursion depth exceeded"))
    'it is nested too deeply'
    """
    if isinstance(error, UnicodeDecodeError):
        return f"it is no text in UTF-8, by its byte {error.start + 1:,}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return "it holds a whole number of more than 4,300 digits" if _LONG_NUMBER in said else said


@contextmanager
def as_config_error(where: str = "") -> Iterator[None]:
    """Turn a rule that a number of the user's breaks, a ValueError, into a ConfigError that begins with ``where``."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}{reason(error)}") from error
