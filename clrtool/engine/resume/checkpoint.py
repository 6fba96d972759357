"""Checkpoints on disk: two generations, each whole or not there, which are loaded without running code.

Beside one may lie a folder with what ranks hold of a model that is spread over them. It is written before, so the file
that is renamed to its name makes both of them there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from clrtool.engine.resume.parts import PARTS, are_whole
from clrtool.engine.runtime.hardware import peak_memory, total_memory
from clrtool.engine.runtime.serialize import from_bytes, to_bytes
from clrtool.errors import MachineError
from clrtool.files import read_bytes, write_whole

GENERATIONS = 2
# 'number-hash.pt': the newest is known by its number, and whether it is whole by its hash. No list of them can be torn.
_NAME = re.compile(r"(\d{8,18})-([0-9a-f]{64})\.pt")
_PARTS = re.compile(r"\d{8,18}")


class Found(NamedTuple):
    """The values of the newest checkpoint that is whole, None if there is none, and those that are damaged.

    Args:
        parts: the folder of what ranks have saved with it, if they have.
    """

    values: dict[str, Any] | None
    damaged: tuple[Path, ...]
    parts: Path = Path()


class CheckpointFolder:
    """A folder of checkpoints.

    Args:
        folder: made when the first is saved.
        before_save: called before anything is written.

    Raises:
        MachineError: the folder is a link, which could lead anywhere, or no folder.
    """

    def __init__(self, folder: Path, before_save: Callable[[], object] = lambda: None) -> None:
        self.folder, self._before_save = folder, before_save
        self._damaged: tuple[Path, ...] = ()
        self._check_plain()

    def _check_plain(self) -> None:
        folder = self.folder
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise MachineError(f"{folder}: is there already and is no plain folder")

    def save(self, values: Mapping[str, Any]) -> None:
        """Write one more generation, and remove the oldest.

        Raises:
            MachineError: the disk is full, or something else is now in the folder's place.
        """
        self._before_save()
        self._check_plain()
        content = to_bytes(dict(values))
        files = self._files()
        name = f"{self._next(files)}-{hashlib.sha256(content).hexdigest()}.pt"
        write_whole(self.folder / name, content)
        whole = [file for file in files if file not in self._damaged]
        for old in whole[GENERATIONS - 1 :]:
            with contextlib.suppress(OSError):
                old.unlink()
        self._remove_parts()

    def begin_parts(self) -> Path:
        """A new folder for the parts of the generation that is saved next. Raises MachineError where it cannot be."""
        self._before_save()
        self._remove_parts()
        folder = self.folder / self._next(self._files())
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise MachineError(f"{folder}: cannot be made: {error.strerror}") from error
        return folder

    def _remove_parts(self) -> None:
        """Remove the parts that no checkpoint tells of: of old ones, and of one that was not finished."""
        known = {parts_of(file) for file in self._files()}
        for folder in self.folder.iterdir() if self.folder.is_dir() else ():
            if _PARTS.fullmatch(folder.name) and folder not in known and not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)

    @staticmethod
    def _next(files: list[Path]) -> str:
        """The number of the next generation."""
        return f"{_number(files[0]) + 1 if files else 1:08d}"

    def load(self) -> Found:
        """The newest checkpoint whose hash is that of its content."""
        self._damaged = ()
        for file in self._files():
            values = _values(file)
            if values is not None:
                return Found(values, self._damaged, parts_of(file))
            self._damaged += (file,)
        return Found(None, self._damaged)

    def _files(self) -> list[Path]:
        """The checkpoints, newest first."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted((file for file in found if _NAME.fullmatch(file.name)), key=_number, reverse=True)


def _number(file: Path) -> int:
    return int(file.name.partition("-")[0])


def _values(file: Path) -> dict[str, Any] | None:
    match = _NAME.fullmatch(file.name)
    try:
        content = read_bytes(file, total_memory() // 2)  # and as much for what is made of it
        if match is None or hashlib.sha256(content).hexdigest() != match[2]:
            return None
        values = from_bytes(content)
    except MemoryError as error:
        raise MachineError(f"{file}: out of memory, {peak_memory()}") from error
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise MachineError(f"{file}: {error.strerror}, half of this machine's memory") from error
        return None
    except Exception:  # noqa: BLE001 (what a file of an unknown origin makes of the loader: it is damaged)
        return None
    if not isinstance(values, dict):
        return None
    return values if (parts := values.get(PARTS)) is None or are_whole(parts_of(file), parts) else None


def parts_of(file: Path) -> Path:
    """The folder of the parts that belong to a checkpoint."""
    return file.with_name(file.name.partition("-")[0])
