"""The files of ``torch.distributed.checkpoint``: each rank writes its parts, and any number of ranks reads them.

Where every part lies, torch would keep in a pickle, which runs what it holds; here it is handed back in plain types,
for the checkpoint itself. No rank waits for another: each writes as if it were alone.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from clrtool.engine.resume.parts import file_of
from clrtool.engine.runtime.serialize import refuse_what_costs


def write(folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """Write tensors into the one file of a new folder: where each begins in it, and how many bytes it takes.

    Raises:
        OSError, RuntimeError: the disk is full, or cannot be written.
    """
    try:
        with _quietly():
            made = save(dict(tensors), storage_writer=FileSystemWriter(folder), no_dist=True)
    except CheckpointException as error:
        raise _cause(error) from error
    return {index.fqn: (info.offset, info.length) for index, info in made.storage_data.items()}


def read(folder: Path, known: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> None:
    """Fill tensors, of those that are spread what this rank holds.

    Args:
        known: of each tensor its shape, its type, and where its chunks lie.

    Raises:
        OSError, RuntimeError, ValueError: they are not there.
    """
    try:
        with _quietly():
            load(dict(wanted), storage_reader=_Reader(folder, _metadata(known)), no_dist=True)
    except CheckpointException as error:
        raise _cause(error) from error


class _Reader(FileSystemReader):
    """A reader that is told what there is, and refuses what is more than a tensor."""

    def __init__(self, folder: Path, metadata: Metadata) -> None:
        super().__init__(folder)
        self._told = metadata

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:  # noqa: ARG002
        return self._told

    def _slice_file(self, file: Any, sinfo: _StorageInfo) -> Any:
        file.seek(sinfo.offset)
        found = io.BytesIO(file.read(sinfo.length))  # torch's own view of it cannot be read from its end
        refuse_what_costs(found, sinfo.length)
        found.seek(0)
        return found


def _metadata(tensors: Mapping[str, Any]) -> Metadata:
    """What torch knows of a checkpoint."""
    known = {
        name: TensorStorageMetadata(
            TensorProperties(getattr(torch, each["dtype"])), torch.Size(each["shape"]),
            [ChunkStorageMetadata(torch.Size(offset), torch.Size(sizes)) for _, offset, sizes, *_ in each["chunks"]],
        )
        for name, each in tensors.items()
    }  # fmt: skip
    places = {
        MetadataIndex(name, offset): _StorageInfo(str(file_of(Path(), rank)), start, length)
        for name, each in tensors.items()
        for rank, offset, _, start, length in each["chunks"]
    }
    return Metadata({**known}, storage_data=places, storage_meta=StorageMeta())


@contextmanager
def _quietly() -> Iterator[None]:
    """Without torch's guess that a program which runs alone meant to."""
    with warnings.catch_warnings(action="ignore"):
        yield


def _cause(error: CheckpointException) -> Exception:
    """What was raised on this rank."""
    inner = next((each for each, _ in error.failures.values()), None)
    return inner if isinstance(inner, Exception) else RuntimeError(str(error))
