"""Plain values and tensors as bytes, for a file or another process; no code is run to read them."""

from __future__ import annotations

import io
import warnings
from typing import IO, Any
from zipfile import ZIP_STORED, ZipFile, is_zipfile

import torch


def to_bytes(values: Any) -> bytes:
    """Values in types that :func:`from_bytes` reads."""
    content = io.BytesIO()
    torch.save(values, content)
    return content.getvalue()


def from_bytes(content: bytes) -> Any:
    """What :func:`to_bytes` was given, on the CPU. Raises whatever torch makes of anything else."""
    return load(io.BytesIO(content), len(content))


def load(file: IO[bytes], size: int) -> Any:
    """What torch has saved, on the CPU, without running what it may hold, and in as much memory as the file takes.

    Raises:
        ValueError: it would unpack to more than it holds; torch packs nothing.
    """
    if is_zipfile(file):
        with ZipFile(file) as declared:
            entries = declared.infolist()
        if any(each.compress_type != ZIP_STORED for each in entries) or sum(each.file_size for each in entries) > size:
            raise ValueError("it is packed, as torch.save packs nothing")
    file.seek(0)
    with warnings.catch_warnings(action="ignore"):  # of what is refused in a moment, or is as it should be
        return torch.load(file, map_location="cpu", weights_only=True)
