"""Files that are written whole or not at all, and read only if they are plain files of a bounded size."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path

from clrtool.errors import MachineError

# Larger than any config, result or curve of ours; a text beyond it is refused before it fills the memory.
MOST_BYTES = 64 * 2**20
# The end of a temporary file's name, by which nobody else's is taken for one of ours and swept.
_ENDING = ".clrtool.tmp"
_TEMPORARY = re.compile(rf"\..+\.[a-z0-9_]{{8}}{re.escape(_ENDING)}")


def write_whole(path: Path, content: str | bytes | Iterable[str]) -> None:
    """Replace ``path`` in one step: a temporary file in the same folder, fsync, rename, fsync of the folder.

    A content in blocks is written as it comes and never held whole. The temporary file is locked while it has a
    writer, so that :func:`sweep_orphans` can tell those whose writer was killed; on a file system without locks none
    is told, and none removed.

    Raises:
        MachineError: the folder cannot be made or written, ``path`` is a device, a link or a folder, or the disk is
            full; what was there is still there.
    """
    blocks: Iterable[str | bytes] = [content] if isinstance(content, str | bytes) else content
    written = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = _mode(path)
        with _temporary(path) as (descriptor, temporary):
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                for block in blocks:
                    data = block.encode() if isinstance(block, str) else block
                    written += len(data)
                    file.write(data)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
            temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise MachineError(_cannot_write(path, written, error)) from error


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """The UTF-8 text of a plain file, without the mark that some editors put before it.

    Raises:
        OSError: it cannot be read, is no plain file (reading a pipe or a device may never end), or holds more than
            ``most`` bytes.
        UnicodeDecodeError: it is not UTF-8.
    """
    return read_bytes(path, most).decode("utf-8-sig")


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a plain file; the rules of :func:`read_text`."""
    with open_plain(path) as file:
        size = size_of(file)
        if size > most:
            raise OSError(errno.EFBIG, f"it holds {size:,} bytes; at most {most:,} are read")
        return file.read(size)


def open_plain(path: Path) -> BufferedReader:
    """A plain file, to be read as far as its size says: reading a pipe, a device or a file of /proc may never end.

    Raises:
        OSError: it cannot be read, or is no plain file.
    """
    # a pipe that nobody writes to is opened at once, to see that it is one
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")  # noqa: SIM115, PTH123 (its reader closes it)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no plain file")
    return file


def size_of(file: BufferedReader) -> int:
    """The bytes that an open file holds."""
    return os.fstat(file.fileno()).st_size


def refuse_links(folder: Path, *inside: str) -> None:
    """Raise MachineError if one of the folders on the way from ``folder`` to what lies in it is a link.

    It would lead to files that are not ours to write. ``folder`` itself may be one: its user has named it.
    """
    for name in inside:
        folder = folder / name
        if folder.is_symlink():
            raise MachineError(f"{folder}: is a link, which clrtool did not make: remove it, or give another folder")


def check_writable(folder: Path) -> None:
    """Make a folder and a passing file in it. Raises MachineError now rather than after an hour of training."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"probe")
            file.flush()
    except OSError as error:
        raise MachineError(f"{folder}: cannot be written: {error.strerror or error}{_free(folder, error)}") from error


def check_here() -> None:
    """Raise MachineError where torch could not be imported, or would end the process when it computes.

    It needs a current folder that is there and open, and one for temporary files.
    """
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise MachineError("the current folder was removed: go to another one") from error
    if not os.access(".", os.X_OK):
        raise MachineError("the current folder is closed to this user: go to another one")
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise MachineError("no folder for temporary files can be written: set TMPDIR to one that can be") from error


def temporary_files(folder: Path) -> list[Path]:
    """The temporary files in a folder, of writers that write or that were killed."""
    found = folder.iterdir() if folder.is_dir() else ()
    return [path for path in found if _TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_symlink()]


def sweep_orphans(folder: Path) -> None:
    """Remove the temporary files of writers that were killed. One that is locked has a writer still."""
    for path in temporary_files(folder):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[tuple[int, Path]]:
    """A locked file beside ``path``, gone at the end unless it was renamed, whatever happens in between."""
    while True:
        # a name may be as long as the file system takes, and that of its temporary file must not be longer
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:32]}.", suffix=_ENDING, dir=path.parent)
        with contextlib.suppress(OSError):  # a file system without locks: sweep_orphans gets none either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if Path(name).exists():  # else it was swept between the two calls
            break
        os.close(descriptor)
    try:
        yield descriptor, Path(name)
    finally:
        with contextlib.suppress(OSError):
            Path(name).unlink(missing_ok=True)
        os.close(descriptor)


def _cannot_write(path: Path, written: int, error: OSError) -> str:
    what = f"cannot write its {written:,} bytes" if written else "cannot be written"
    return f"{path}: {what}: {error.strerror or error}{_free(path.parent, error)}"


def _free(folder: Path, error: OSError) -> str:
    """What is left of a disk or a quota that is full: of its bytes, or of the files that it may hold."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    where = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    disk = os.statvfs(where)
    if disk.f_files and not disk.f_favail:
        return "; it holds as many files as it may: remove some, however small"
    return f"; {disk.f_bavail * disk.f_frsize:,} bytes are free"


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
