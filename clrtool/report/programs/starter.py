"""A config to begin with, for a model and data of one's own: every section, each with what else it may hold."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from clrtool.config.json_schema import MODELINE
from clrtool.errors import ConfigError
from clrtool.words import argument, nearest, printable, shell_command, shown

# The models that are known by name alone; those of torchvision are looked up when they are built.
MODELS = ("mlp", "convnet", "resnet", "vit", "gpt")
# Kinds of data and the argument that says where it lies; torchvision's take a root.
PLACES = {"image_folder": "root", "npz": "path", "text": "path", "digits": None}

# What the folder of held-out images is called, that of a default first.
HELDOUT = ("test", "val", "valid", "validation")

# Models of Transformers by the ending of their class: the class that reads them, and what their input is called.
HUB_TASKS = {
    "ForImageClassification": ("AutoModelForImageClassification", "pixel_values"),
    "ForSequenceClassification": ("AutoModelForSequenceClassification", "input_ids"),
    "LMHeadModel": ("AutoModelForCausalLM", "input_ids"),
    "ForCausalLM": ("AutoModelForCausalLM", "input_ids"),
}
# What the code for such a model is called.
HUB_MODEL = "hub_model:Model"
# Samples of a batch, and iterations that an epoch has at the least where the set is small.
LARGEST_BATCH, FEWEST_ITERATIONS = 128, 10
TEMPLATE = """\
# An LR range test of {model} on {data}: {command}
# Every key with its rule: clrtool schema. A value for one run: {command} plan.epochs=90
{modeline}
seed: 0
model: {model_section}
# Built-in: mlp, convnet, resnet, vit, gpt. Others: torchvision.NAME, or factory: "pkg.module:callable".
data:
  {data_section}
  batch_size: {batch_size} # samples in one optimizer step; the bounds depend on it
  # heldout: 2500 # samples to hold out, if data has to be split
  # augment: {{flip: true, crop: 4}} # for images
optimizer: {optimizer} # any class of torch.optim; the test sets the learning rate
loss: cross_entropy
metric: {metric} # accuracy, top5, token_accuracy, loss, or a factory
precision: fp32 # bf16 is faster on a GPU
sweep: {{budget: 0.25}} # cost of the test as a share of the training; at least 500 iterations
plan: {{policy: triangular2, epochs: 30}} # epochs: length of the training that you plan
"""


def starter(model: str, data: str, file: str, size: int | None = None, samples: int | None = None) -> str:
    """The text of a config.

    Args:
        model: a built-in, ``torchvision.NAME`` or ``pkg.module:callable``.
        data: ``KIND:PLACE`` with a kind of ``PLACES``, ``torchvision.NAME:ROOT``, or ``pkg.module:callable``.
        file: what it will be called.
        size: pixels a side that images are resized to.
        samples: of the training set, where they are known: a small one needs smaller batches.

    Raises:
        ConfigError: the model or the data is of no known kind, or the data lacks its place.
    """
    if not _is_factory(model) and not model.startswith("torchvision.") and model not in MODELS:
        known = [*MODELS, "torchvision.resnet18", "pkg.module:callable"]
        raise ConfigError(f"--model: unknown model {shown(model)}; {nearest(model, known)}")
    return TEMPLATE.format(
        command=command_for(file, factories(model, data)),
        **{name: printable(text).replace("\n", " ") for name, text in (("model", model), ("data", data))},
        model_section=f"{{factory: {json.dumps(model)}}}" if _is_factory(model) else f"{{name: {json.dumps(model)}}}",
        data_section="\n  ".join(_data(data, size)),
        modeline=MODELINE,
        batch_size=_batch_size(samples),
        metric="token_accuracy" if model == "gpt" or data.startswith("text:") else "accuracy",
        optimizer="AdamW" if model in ("gpt", "vit", HUB_MODEL) else "{name: SGD, args: {momentum: 0.9}}",
    )


def command_for(config: Path | str, allowed: Iterable[str]) -> str:
    """The command that measures a config whose code is allowed by these patterns.

    >>> command_for("my net.yaml", ["train:*"])
    "clrtool rangetest 'my net.yaml' --allow-import 'train:*'"
    """
    imports = (word for pattern in allowed for word in ("--allow-import", pattern))
    return shell_command("clrtool", "rangetest", argument(config), *imports)


def _batch_size(samples: int | None) -> int:
    """The common one, or a power of two that gives an epoch of a small set some iterations.

    >>> _batch_size(None), _batch_size(50_000), _batch_size(400), _batch_size(6)
    (128, 128, 32, 2)
    """
    most = LARGEST_BATCH if samples is None else max(1, samples // FEWEST_ITERATIONS)
    return min(LARGEST_BATCH, 1 << (most.bit_length() - 1)) if samples is None or samples >= 20 else 2


def factories(model: str, data: str) -> list[str]:
    """What ``--allow-import`` has to cover: the code of both, in one pattern if it is in one module.

    >>> factories("train:Net", "train:get_data"), factories("net:Net", "digits"), factories("a:Net", "b:data")
    (['train:*'], ['net:Net'], ['a:Net', 'b:data'])
    """
    words = [word for word in (model, data) if _is_factory(word)]
    modules = {word.partition(":")[0] for word in words}
    return [f"{modules.pop()}:*"] if len(words) > len(modules) else words


def _is_factory(word: str) -> bool:
    """Whether a word is ``pkg.module:callable``; a kind of data with a place has a colon too."""
    kind = word.partition(":")[0]
    return ":" in word and kind not in PLACES and not kind.startswith("torchvision.")


def _data(data: str, size: int | None) -> list[str]:
    if _is_factory(data):
        return [f"factory: {json.dumps(data)} # returns (train, heldout), or one set to be split"]
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
    pixels = "" if size is None else f", size: {size}"
    return [f"name: {kind}", f"args: {{{argument}: {json.dumps(place)}{_layout(kind, place)}{pixels}}}"]


def _layout(kind: str, place: str) -> str:
    """How the images of a folder lie, where that is not as by default: in ``train`` and ``test``."""
    root = Path(place)
    if kind != "image_folder" or not root.is_dir():
        return ""
    if not (root / "train").is_dir():
        return ", train: ., heldout: null" if any(each.is_dir() for each in root.iterdir()) else ""
    found = next((name for name in HELDOUT if (root / name).is_dir()), None)
    return "" if found == HELDOUT[0] else f", heldout: {'null' if found is None else found}"


HUB = '''\
"""The model in {place}, as clrtool calls it: a batch of inputs in, its logits out."""

import torch
from transformers import {auto}


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = {auto}.from_pretrained({place!r})

    def forward(self, inputs):
        return self.model({argument}=inputs).logits
'''


def hub_module(place: str, architecture: str) -> str:
    """The code by which a model that Transformers has saved takes one tensor and returns one.

    Args:
        place: its folder.
        architecture: its class, as its ``config.json`` has it.
    """
    task = next(each for each in HUB_TASKS if architecture.endswith(each))
    auto, argument = HUB_TASKS[task]
    return HUB.format(place=place, auto=auto, argument=argument)
