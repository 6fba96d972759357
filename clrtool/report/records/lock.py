"""The lock of a run folder: one process at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clrtool.errors import BusyError, MachineError

NAME = ".lock"
_FOREIGN = "there is something of that name that is no lock of clrtool: remove it"
_AS_IT_IS = os.O_NOFOLLOW | os.O_NONBLOCK
# What the system says of an entry that is no file: a link, a folder, a socket.
_NO_FILE = {errno.ELOOP, errno.EISDIR, errno.ENXIO}
# What its holder writes into it; anything else is not repeated.
_HOLDER = re.compile(r"\d{1,20} on [\w.-]{1,200}", re.ASCII)


@dataclass(frozen=True)
class Lock:
    """A run folder that is held."""

    folder: Path
    descriptor: int

    def check(self, *names: str) -> None:
        """Raise MachineError if the folder is not as it was left: it was removed or replaced, or a file in it was."""
        is_there = _is_current(self.descriptor, self.folder / NAME)
        if not is_there or not all((self.folder / name).exists() for name in names):
            raise self._gone()

    @contextlib.contextmanager
    def checked(self) -> Iterator[None]:
        """Raise MachineError for what is suddenly missing in the folder: something is removed between two calls too."""
        try:
            yield
        except (OSError, MachineError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if isinstance(cause, FileNotFoundError) and isinstance(cause.filename, str | bytes):
                missing = Path(os.fsdecode(cause.filename)).absolute()
                if missing.is_relative_to(self.folder.absolute()):
                    raise self._gone() from error
            raise

    def _gone(self) -> MachineError:
        return MachineError(
            f"{self.folder}: was removed or replaced during the run, and its results are lost; run the same "
            "command to start over"
        )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[Lock]:
    """Hold a run folder for this process; the kernel lets go of it when the process ends, however it ends.

    A record lock (POSIX ``fcntl``): it works on NFS, and workers that are forked do not keep it when their parent is
    killed. The file goes at the end, so a lock counts only if its file is still the one by that name. It is written by
    whoever made it: one that a killed process has left is replaced, so that nothing that was there is ever changed.

    Raises:
        BusyError: another process holds it.
        MachineError: the folder cannot be written, or its lock is no plain file of its own.
    """
    path = folder / NAME
    descriptor = _acquire(path)
    try:
        os.write(descriptor, f"{os.getpid()} on {platform.node()}".encode())
        yield Lock(folder, descriptor)
    finally:
        with contextlib.suppress(OSError):
            if _is_current(descriptor, path):
                path.unlink()
        os.close(descriptor)


def _acquire(path: Path) -> int:
    """The lock file, made by this process and held."""
    while True:
        try:
            descriptor, made = _opened(path)
        except OSError as error:
            raise MachineError(f"{path}: cannot be made: {error.strerror}") from error
        try:
            _lock(path, descriptor)
            if _is_current(descriptor, path):  # else its holder has just ended and removed it
                if made:
                    return descriptor
                _remove_left(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(path: Path, descriptor: int) -> None:
    """Lock an open file, or find that nobody holds it where it may only be read. Raises BusyError if somebody does."""
    try:
        fcntl.lockf(descriptor, (fcntl.LOCK_EX if _is_writable(descriptor) else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        holder = _HOLDER.fullmatch(os.read(descriptor, 300).decode(errors="replace"))
        raise BusyError(
            f"{path.parent}: is held by another clrtool, process {holder[0] if holder else 'that has just begun'}: "
            "wait for it, or give another folder with -o DIR"
        ) from error
    except OSError as error:
        raise MachineError(
            f"{path}: cannot be locked: {error.strerror}; give a folder on another file system with -o DIR"
        ) from error


def _remove_left(path: Path, descriptor: int) -> None:
    """Remove what a process that was killed has left. Raises MachineError where it is another user's."""
    try:
        if not _is_writable(descriptor):  # of two who may only read it each would remove what the other has just made
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        path.unlink()
    except OSError as error:
        raise MachineError(
            f"{path}: cannot be removed: {error.strerror}; another user's clrtool was killed and has left it: have "
            "them remove it, or give another folder with -o DIR"
        ) from error


def _opened(path: Path) -> tuple[int, bool]:
    """The lock file, and whether it was made just now. Raises OSError for what is no plain file by this name alone.

    That of another user is opened to be read: whether it is held can be seen all the same.
    """
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644), True
    except FileExistsError:
        pass
    try:
        try:
            descriptor = os.open(path, os.O_RDWR | _AS_IT_IS)
        except PermissionError:
            descriptor = os.open(path, os.O_RDONLY | _AS_IT_IS)
    except FileNotFoundError:  # its holder has just removed it
        return _opened(path)
    except OSError as error:
        raise OSError(errno.EINVAL, _FOREIGN) if error.errno in _NO_FILE else error from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise OSError(errno.EINVAL, _FOREIGN)
    return descriptor, False


def _is_writable(descriptor: int) -> bool:
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR


def _is_current(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one by its name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except (FileNotFoundError, NotADirectoryError):
        return False
