"""A config to begin with, for a model and data of one's own: every section, each with what else it may hold."""

from __future__ import annotations

import json
from pathlib import Path

from clrtool.config.json_schema import MODELINE
from clrtool.errors import ConfigError
from clrtool.words import nearest, printable, shown

# The models that are known by name alone; those of torchvision are looked up when they are built.
MODELS = ("mlp", "convnet", "resnet", "vit", "gpt")
# Kinds of data and the argument that says where it lies; torchvision's take a root.
PLACES = {"image_folder": "root", "npz": "path", "text": "path", "digits": None}

# What the folder of held-out images is called, that of a default first.
HELDOUT = ("test", "val", "valid", "validation")

TEMPLATE = """\
# An LR range test of {model} on {data}: clrtool rangetest {file}{allow}
# Every key with its rule: clrtool schema. A value for one run: clrtool rangetest {file} plan.epochs=90
{modeline}
seed: 0
model: {model_section}
# A built-in (mlp, convnet, resnet, vit, gpt), any of torchvision, or factory: "pkg.module:callable" of your own.
data:
  {data_section}
  batch_size: 128 # samples in one optimizer step; the bounds depend on it
  # heldout: 2500 # samples to hold out, if data has to be split
  # augment: {{flip: true, crop: 4}} # for images
optimizer: {{name: SGD, args: {{momentum: 0.9}}}} # any class of torch.optim; the test sets the learning rate
loss: cross_entropy
metric: accuracy # also top5, token_accuracy, loss, or a factory
precision: fp32 # bf16 is faster on a GPU
sweep: {{budget: 0.25}} # cost of the test as a share of the training; at least 500 iterations
plan: {{policy: triangular2, epochs: 30}} # epochs: length of the training that you plan
"""


def starter(model: str, data: str, file: str) -> str:
    """The text of a config.

    Args:
        model: a built-in, ``torchvision.NAME`` or ``pkg.module:callable``.
        data: ``KIND:PLACE`` with a kind of ``PLACES``, ``torchvision.NAME:ROOT``, or ``pkg.module:callable``.
        file: what it will be called.

    Raises:
        ConfigError: the model or the data is of no known kind, or the data lacks its place.
    """
    if not _is_factory(model) and not model.startswith("torchvision.") and model not in MODELS:
        known = [*MODELS, "torchvision.resnet18", "pkg.module:callable"]
        raise ConfigError(f"--model: unknown model {shown(model)}; {nearest(model, known)}")
    texts = {
        "model": model,
        "data": data,
        "file": file,
        "allow": "".join(f" --allow-import '{word}'" for word in factories(model, data)),
    }
    return TEMPLATE.format(
        **{name: printable(text).replace("\n", " ") for name, text in texts.items()},  # in comments of one line
        model_section=f"{{factory: {json.dumps(model)}}}" if _is_factory(model) else f"{{name: {json.dumps(model)}}}",
        data_section="\n  ".join(_data(data)),
        modeline=MODELINE,
    )


def factories(model: str, data: str) -> list[str]:
    """What of both is code."""
    return [word for word in (model, data) if _is_factory(word)]


def _is_factory(word: str) -> bool:
    """Whether a word is ``pkg.module:callable``; a kind of data with a place has a colon too."""
    kind = word.partition(":")[0]
    return ":" in word and kind not in PLACES and not kind.startswith("torchvision.")


def _data(data: str) -> list[str]:
    if _is_factory(data):
        return [f"factory: {json.dumps(data)} # returns (train, heldout)"]
    kind, _, place = data.partition(":")
    if kind.startswith("torchvision."):
        return [f"name: {json.dumps(kind)}", f"args: {{root: {json.dumps(place or 'data')}}}"]
    if kind not in PLACES:
        known = [*PLACES, "torchvision.CIFAR10", "pkg.module:callable"]
        raise ConfigError(f"--data: unknown kind {kind!r}; {nearest(kind, known)}")
    argument = PLACES[kind]
    if argument is None:
        return [f"name: {kind}"]
    if not place:
        raise ConfigError(f"--data {kind}: where does it lie? --data {kind}:{'DIR' if argument == 'root' else 'FILE'}")
    return [f"name: {kind}", f"args: {{{argument}: {json.dumps(place)}{_layout(kind, place)}}}"]


def _layout(kind: str, place: str) -> str:
    """How the images of a folder lie, where that is not as by default: in ``train`` and ``test``."""
    root = Path(place)
    if kind != "image_folder" or not root.is_dir():
        return ""
    if not (root / "train").is_dir():
        return ", train: ., heldout: null" if any(each.is_dir() for each in root.iterdir()) else ""
    found = next((name for name in HELDOUT if (root / name).is_dir()), None)
    return "" if found == HELDOUT[0] else f", heldout: {'null' if found is None else found}"
