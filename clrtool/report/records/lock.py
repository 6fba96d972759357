"""The lock of a run folder: one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from clrtool.errors import BusyError, MachineError

NAME = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process; the kernel lets go of it when the process ends, however it ends.

    A record lock (POSIX ``fcntl``): it works on NFS, and workers that are forked do not keep it when their parent is
    killed. The file goes at the end, so a lock counts only if its file is still the one by that name.

    Raises:
        BusyError: another process holds it.
        MachineError: the folder cannot be written.
    """
    path = folder / NAME
    descriptor = _acquire(path)
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()} on {platform.node()}".encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise MachineError(f"{path}: cannot be made: {error.strerror}") from error
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):  # its holder has just ended and removed it
                if os.path.samestat(os.fstat(descriptor), path.lstat()):
                    return descriptor
        except (BlockingIOError, PermissionError) as error:
            holder = os.read(descriptor, 200).decode(errors="replace") or "that has just begun"
            os.close(descriptor)
            raise BusyError(
                f"{path.parent}: is held by another clrtool, process {holder}: wait for it, or give another folder "
                "with -o DIR"
            ) from error
        os.close(descriptor)
