"""Images from files of anybody: found without a loop, opened only as what they may be, and measured before decoding."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from clrtool.errors import ConfigError
from clrtool.files import open_plain
from clrtool.words import shown

# Of an image before it is resized.
MAX_PIXELS = 8192 * 8192
# Levels of folders below the folder of a class; Python's recursion ends at about 900.
MAX_DEPTH = 100
# What the endings of an image folder stand for. Of the others that Pillow knows by their content, whatever their name,
# EPS starts a program, Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def read_image(path: str) -> Any:
    """An image as RGB.

    Raises:
        ValueError: before it is decoded, for one whose few bytes would become gigabytes.
        OSError: it is no plain file, or of none of the formats.
    """
    from PIL import Image

    try:
        with open_plain(Path(path)) as file, Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{path} is {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are read")
            return image.convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{path}: {error}") from error
    except OSError as error:
        raise OSError(f"{path}: {error.strerror or 'is no image of ' + ', '.join(FORMATS)}") from error


def start_no_programs() -> None:
    """Let Pillow start none for the datasets of torchvision, which open their images by themselves."""
    from PIL import EpsImagePlugin

    EpsImagePlugin.gs_binary = False


class Images(ImageFolder):  # type: ignore[misc] # torchvision has no types
    """An image folder as torchvision reads it, of which links may make no loop."""

    def __init__(self, root: str) -> None:
        super().__init__(root, loader=read_image)

    @staticmethod
    def make_dataset(
        directory: str | Path,
        class_to_idx: dict[str, int],
        extensions: Any = None,
        is_valid_file: Any = None,
        allow_empty: bool = False,
    ) -> list[tuple[str, int]]:
        """See torchvision. Raises ConfigError for links that make a loop, and for an image that is no plain file."""
        for name in class_to_idx:
            for place in _files(Path(directory) / name, {_identity(Path(directory))}):
                if place.suffix.lower() in IMG_EXTENSIONS and not place.is_file():
                    raise ConfigError(f"data.args.root: {place} is no plain file")
        found: list[tuple[str, int]] = ImageFolder.make_dataset(
            directory, class_to_idx, extensions, is_valid_file, allow_empty
        )
        return found


def _files(folder: Path, seen: set[tuple[int, int]], deep: int = 0) -> Iterator[Path]:
    """All that is no folder, links followed. Raises ConfigError for a folder that is read already, or lies too deep."""
    if deep > MAX_DEPTH:
        raise ConfigError(f"data.args.root: {shown(str(folder))} lies more than {MAX_DEPTH} folders deep")
    if (identity := _identity(folder)) in seen:
        raise ConfigError(f"data.args.root: {folder} is a link to a folder that is read already")
    seen.add(identity)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(Path(entry.path), seen, deep + 1)
            else:
                yield Path(entry.path)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
