"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

from clrtool.errors import MachineError


def write_whole(path: Path, content: str | bytes | Iterable[str]) -> None:
    """Replace ``path`` in one step: a temporary file in the same folder, fsync, rename, fsync of the folder.

    A content in blocks is written as it comes and never held whole.

    Raises:
        MachineError: the folder cannot be made or written, ``path`` is a device, a link or a folder, or the disk is
            full; what was there is still there.
    """
    blocks: Iterable[str | bytes] = [content] if isinstance(content, str | bytes) else content
    written, temporary = 0, None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = _mode(path)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            for block in blocks:
                written += file.write(block.encode() if isinstance(block, str) else block)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        raise MachineError(f"{path}: cannot write after {written:,} bytes: {error.strerror or error}") from error


def check_writable(folder: Path) -> None:
    """Make a folder and a passing file in it. Raises MachineError now rather than after an hour of training."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise MachineError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _mode(path: Path) -> int:
    """The permissions of the file that is replaced, or those that any new file gets."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is there already and is no plain file")
    return stat.S_IMODE(status.st_mode)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
