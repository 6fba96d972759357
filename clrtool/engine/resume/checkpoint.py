"""Checkpoints on disk: two generations, each whole or not there, which are loaded without running code."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from clrtool.engine.runtime.hardware import peak_memory, total_memory
from clrtool.engine.runtime.serialize import from_bytes, to_bytes
from clrtool.errors import MachineError
from clrtool.files import read_bytes, write_whole

GENERATIONS = 2
# 'number-hash.pt': the newest is known by its number, and whether it is whole by its hash. No list of them can be torn.
_NAME = re.compile(r"(\d{8})-([0-9a-f]{64})\.pt")


class Found(NamedTuple):
    """The values of the newest checkpoint that is whole, None if there is none, and those that are damaged."""

    values: dict[str, Any] | None
    damaged: tuple[Path, ...]


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
        number = int(files[0].name[:8]) + 1 if files else 1
        name = f"{number:08d}-{hashlib.sha256(content).hexdigest()}.pt"
        write_whole(self.folder / name, content)
        whole = [file for file in files if file not in self._damaged]
        for old in whole[GENERATIONS - 1 :]:
            with contextlib.suppress(OSError):
                old.unlink()

    def load(self) -> Found:
        """The newest checkpoint whose hash is that of its content."""
        self._damaged = ()
        for file in self._files():
            values = _values(file)
            if values is not None:
                return Found(values, self._damaged)
            self._damaged += (file,)
        return Found(None, self._damaged)

    def _files(self) -> list[Path]:
        """The checkpoints, newest first."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted((file for file in found if _NAME.fullmatch(file.name)), reverse=True)


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
    return values if isinstance(values, dict) else None
