"""What a folder holds to run a range test on: code that is read and never run, arrays, images, texts, saved models.

``clrtool init`` writes its config from what is found here.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from clrtool.report.programs.starter import HUB_TASKS

IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".webp", ".tif", ".tiff")
# As what they may be opened, whatever their name: Pillow runs a program for some others.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "WEBP", "TIFF")
# Files and folders that are looked at; a folder with more is no place where a training is set up.
MOST = 200
MOST_BYTES = 2**20
# Pixels a side up to which images are small, as those of CIFAR are.
SMALL = 64
# Pixels a side that larger images are resized to, as for ImageNet.
LARGE = 224
# Words in the name of a function that gives data.
DATA_WORDS = ("data", "load", "split", "sets", "set")


@dataclass(frozen=True)
class Found:
    """Something that a config can name.

    Args:
        word: as ``init`` takes it for ``--model`` or ``--data``.
        why: one sentence that says where it comes from.
        todo: what has to be done before it runs, a sentence each.
        size: pixels a side, of images.
        samples: of the training set, about.
    """

    word: str
    why: str
    todo: tuple[str, ...] = ()
    size: int | None = None
    samples: int | None = None


@dataclass(frozen=True)
class Finds:
    """What a folder holds, in each list the most likely first.

    Args:
        models: of the user's own; for those that clrtool has, see ``fitting``.
        data: sets of data.
        fitting: the built-in model for the first set of data.
        hub: a model of Transformers, which needs a module of its own: its folder and its class.
    """

    models: tuple[Found, ...] = ()
    data: tuple[Found, ...] = ()
    fitting: Found | None = None
    hub: tuple[str, str] | None = None


def discover(folder: Path) -> Finds:
    """Look at a folder, without running what is in it."""
    # a pipe or a device may never end, a link may lead nowhere, and other things may be closed to this user
    plain = (each for each in folder.iterdir() if each.is_file() or (each.is_dir() and os.access(each, os.X_OK)))
    plain = (each for each in plain if os.access(each, os.R_OK))
    entries = sorted(each for each in plain if not each.name.startswith("."))[:MOST]
    sources = [source for each in entries if each.suffix == ".py" and (source := _read_source(each)) is not None]
    sources.sort(key=lambda source: (source.module != "train", source.module))
    arrays = [found for each in entries if each.suffix == ".npz" and (found := _arrays(each)) is not None]
    images = [found for each in (folder, *entries) if each.is_dir() and (found := _images(each, folder)) is not None]
    texts = [found for each in entries if each.suffix == ".txt" and (found := _text(each)) is not None]
    sets = [*arrays, *images, *texts]
    return Finds(
        models=tuple(model for source in sources for model in source.models()),
        data=(*(found for source in sources for found in source.data()), *(found for found, _ in sets)),
        fitting=sets[0][1] if sets else None,
        hub=next((hub for each in (folder, *entries) if (hub := _hub(each, folder)) is not None), None),
    )


@dataclass(frozen=True)
class Source:
    """A file of Python, as a tree."""

    module: str
    tree: ast.Module

    def models(self) -> Iterator[Found]:
        """Classes of modules, those first that no other class is made of and that need no argument."""
        classes = [node for node in self.tree.body if isinstance(node, ast.ClassDef)]
        modules: list[ast.ClassDef] = []
        for node in classes:
            bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
            if "Module" in bases or bases & {each.name for each in modules}:
                modules.append(node)
        parts = {name for node in classes for name in _called(node) if name != node.name}
        modules.sort(key=lambda node: (node.name in parts, bool(_required(node))))
        for node in modules:
            needs = _required(node)
            example = ", ".join(f"{name}: ..." for name in needs)
            todo = f"{node.name} needs {', '.join(needs)}: give them as model.args, {{{example}}}"
            yield Found(
                f"{self.module}:{node.name}",
                f"{self.module}.py defines the module {node.name} (line {node.lineno}).",
                ((todo,) if needs else ()) + self.runs_on_import(),
            )

    def data(self) -> Iterator[Found]:
        """Functions that give a pair, of two sets or of inputs and labels, by their names and what they return."""
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and not _parameters(node.args):
                pairs = [
                    each for each in ast.walk(node)
                    if isinstance(each, ast.Return) and isinstance(each.value, ast.Tuple) and len(each.value.elts) == 2
                ]  # fmt: skip
                if pairs and any(word in node.name.lower() for word in DATA_WORDS):
                    why = f"{self.module}.py: {node.name}() returns a pair (line {node.lineno})."
                    yield Found(f"{self.module}:{node.name}", why, self.runs_on_import())

    def runs_on_import(self) -> tuple[str, ...]:
        """What to do about code that trains as soon as its file is imported."""
        busy = (ast.For, ast.While, ast.With)
        for node in self.tree.body:
            called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
            if isinstance(node, busy) or called:
                place = f"{self.module}.py line {node.lineno}"
                return (f"{place} runs when the file is imported: move it below if __name__ == '__main__':",)
        return ()


def _read_source(path: Path) -> Source | None:
    """A file as a tree; None for one that is no Python, too long, or whose name cannot be imported."""
    try:
        if not path.stem.isidentifier() or path.stem.startswith("_") or path.stat().st_size > MOST_BYTES:
            return None
        return Source(path.stem, ast.parse(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def _called(node: ast.AST) -> set[str]:
    return {each.func.id for each in ast.walk(node) if isinstance(each, ast.Call) and isinstance(each.func, ast.Name)}


def _required(node: ast.ClassDef) -> list[str]:
    """What the constructor cannot do without."""
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            return _parameters(each.args)[1:]
    return []


def _parameters(arguments: ast.arguments) -> list[str]:
    """Arguments without a default."""
    positional = [*arguments.posonlyargs, *arguments.args]
    named = [each for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if default is None]
    return [each.arg for each in (*positional[: len(positional) - len(arguments.defaults)], *named)]


def _arrays(path: Path) -> tuple[Found, Found] | None:
    """A file of arrays by its headers, and the model that fits the inputs."""
    from numpy.lib import format as header

    shapes: dict[str, Any] = {}
    try:
        with ZipFile(path) as file:
            for name in file.namelist()[:MOST]:
                with file.open(name) as array:
                    version = header.read_magic(array)
                    read = header.read_array_header_1_0 if version == (1, 0) else header.read_array_header_2_0
                    shape, _, dtype = read(array)
                    shapes[name.removesuffix(".npy")] = (shape, dtype)
    except (OSError, ValueError, RuntimeError, BadZipFile, EOFError):  # RuntimeError: encrypted, or packed otherwise
        return None
    inputs, targets = shapes.get("x_train", shapes.get("x")), shapes.get("y_train", shapes.get("y"))
    if inputs is None or targets is None:
        return None
    (shape, dtype), names = inputs, ", ".join(sorted(shapes))
    data = Found(f"npz:{path}", f"{path.name} holds the arrays {names}.", samples=shape[0] if shape else 0)
    if dtype.kind in "iu" and len(targets[0]) == 2:
        return data, Found("gpt", "whole numbers with a sequence of targets each are tokens, so a small GPT fits.")
    if len(shape) in (3, 4):
        return data, Found("convnet", f"inputs of shape {shape[1:]} are images, so a small convnet fits.")
    return data, Found("mlp", f"inputs of shape {shape[1:]} are features, so an MLP fits.")


def _images(place: Path, folder: Path) -> tuple[Found, Found] | None:
    """A folder of images, a folder for each class, and the model for their size."""
    root = place / "train" if (place / "train").is_dir() else place
    try:
        classes = [each for each in sorted(root.iterdir())[:MOST] if each.is_dir() and _first_image(each) is not None]
    except OSError:
        return None
    if len(classes) < 2:
        return None
    first = _first_image(classes[0])
    assert first is not None
    side, name = _side(first), "." if place == folder else place.name
    told = ", ".join(each.name for each in classes[:3]) + (", ..." if len(classes) > 3 else "")
    small = side is not None and side <= SMALL
    why = f"{name}/ has images in {len(classes)} classes ({told})."
    samples = sum(sum(1 for _ in each.iterdir()) for each in classes)
    data = Found(f"image_folder:{name}", why, size=side if small else LARGE, samples=samples)
    if small:
        return data, Found("resnet", f"the images are {side} pixels wide, so a small ResNet fits.")
    return data, Found("torchvision.resnet18", "ResNet-18 is a common start for images of this size.")


def _first_image(folder: Path) -> Path | None:
    files = (each for each in sorted(folder.iterdir())[:MOST] if each.suffix.lower() in IMAGES)
    return next((each for each in files if each.is_file()), None)


def _side(image: Path) -> int | None:
    from PIL import Image

    try:
        with Image.open(image, formats=FORMATS) as opened:
            return int(max(opened.size))
    except (OSError, ValueError):
        return None


def _text(path: Path) -> tuple[Found, Found] | None:
    """A text that is long enough to learn from."""
    if path.stat().st_size < 10_000 or path.name in ("requirements.txt", "LICENSE.txt"):
        return None
    data = Found(f"text:{path}", f"{path.name} is a text of {path.stat().st_size:,} bytes.")
    return data, Found("gpt", "a small GPT learns to tell the next byte.")


def _hub(place: Path, folder: Path) -> tuple[str, str] | None:
    """The folder of a model that Transformers has saved, and its class."""
    config = place / "config.json"
    try:
        if not config.is_file() or config.stat().st_size > MOST_BYTES:
            return None
        known: Any = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    names: Sequence[Any] = (known.get("architectures") if isinstance(known, dict) else None) or ()
    name = next((each for each in names if isinstance(each, str) and each.isidentifier()), None)
    if name is None or not name.endswith(tuple(HUB_TASKS)):
        return None
    return ("." if place == folder else place.name), name
