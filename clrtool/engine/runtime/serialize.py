"""Plain values and tensors as bytes, for a file or another process; no code is run to read them."""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import IO, Any
from zipfile import ZIP_STORED, ZipFile

import torch

# How torch recognises an archive, and the three records at the end of one: where its list of entries lies, where that
# record lies, and where the list lies in the form for archives below 4 GiB.
_ARCHIVE = b"PK\x03\x04"
_LONG, _PLACE, _SHORT = struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL"), struct.Struct("<4s4H2LH")

# Calls that torch allows in a file although a few bytes cost gigabytes or minutes: bytearray(2**33) takes 8 GiB, to
# encode 24 kB as punycode takes 12 s, with the square of the length, and one number that stands for 10**10 is written
# out where its tensor is brought to a device. Numbers, texts and tensors of a CPU need none of them.
_COSTLY = re.compile(rb"bytearray|_codecs|_rebuild_device_tensor")
_BLOCK, _LONGEST_WORD = 2**24, 32
_METHODS = frozenset(dir(OrderedDict))


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
        ValueError: as :func:`refuse_what_costs` and :func:`_refuse_traps`.
    """
    refuse_what_costs(file, size)
    file.seek(0)
    with warnings.catch_warnings(action="ignore"):  # of what is refused in a moment, or is as it should be
        values = torch.load(file, map_location="cpu", weights_only=True)
    _refuse_traps(values, size)
    return values


def _refuse_traps(values: Any, most: int) -> None:
    """Raise ValueError for containers that hold one another more than ``most`` times, or with methods of their own.

    A few bytes can put a list into itself, or ten times into one that is ten times in the next: to go through it takes
    for ever. And a file may set an attribute of an OrderedDict in the place of a method.
    """
    waiting = [values]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            if vars(each).keys() & _METHODS if hasattr(each, "__dict__") else ():
                raise ValueError("it holds a dict with methods of its own")
            inside: Iterable[Any] = dict.values(each)
        elif isinstance(each, list | tuple):
            inside = each
        else:
            continue
        if (most := most - len(each)) < 0:
            raise ValueError("it unfolds to more than it holds")
        waiting += inside


def refuse_what_costs(file: IO[bytes], size: int) -> None:
    """Raise ValueError for a file of torch that takes more to load than it holds.

    It would unpack to more than it holds, for torch packs nothing; it is an archive of which two readers may see two
    lists of entries, as torch writes none; or it holds calls that cost more than its size.
    """
    pickles: Iterable[bytes]
    if file.read(len(_ARCHIVE)) == _ARCHIVE:
        if not _has_one_list(file, size):
            raise ValueError("it is not an archive as torch.save writes them")
        with ZipFile(file) as declared:
            entries = declared.infolist()
            if (
                any(each.compress_type != ZIP_STORED for each in entries)
                or sum(each.file_size for each in entries) > size
            ):
                raise ValueError("it is packed, as torch.save packs nothing")
            pickles = [declared.read(each) for each in entries if each.filename.lower().endswith("data.pkl")]
    else:  # as torch saved before 1.6: pickles, and the numbers after them
        file.seek(0)
        pickles = _blocks(file)
    if any(map(_COSTLY.search, pickles)):
        raise ValueError("it holds more than numbers, texts and tensors")


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    """Blocks of a file, each with the end of the one before it."""
    last = b""
    while block := file.read(_BLOCK):
        yield last + block
        last = block[-_LONGEST_WORD:]


def _has_one_list(file: IO[bytes], size: int) -> bool:
    """Whether the list of entries ends where the records at the end begin, and these end the file.

    torch takes the list that the records point to, Python the one that lies before them, and they look for the records
    in ends of different lengths.
    """
    file.seek(max(0, size - _LONG.size - _PLACE.size - _SHORT.size))
    end = file.read().rjust(_LONG.size + _PLACE.size + _SHORT.size)
    long, place = _LONG.unpack_from(end), _PLACE.unpack_from(end, _LONG.size)
    sign, *_, length, start, comment = _SHORT.unpack_from(end, _LONG.size + _PLACE.size)
    begin = size - _SHORT.size
    if place[0] == b"PK\x06\x07":
        begin = size - len(end)
        if long[0] != b"PK\x06\x06" or place[2] != begin:
            return False
        length, start = long[-2:]
    return (sign, comment, start + length) == (b"PK\x05\x06", 0, begin)
