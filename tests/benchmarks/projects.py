"""Public projects, rebuilt small: what training with the recommended bounds reaches beside the project's own rate.

    python -m tests.benchmarks.projects [NAMES]

Each is tested and trained as its authors wrote it (tests/test_projects.py), with three seeds, by ``clrtool.range_test`` and
``clrtool.compare``. The rate of the project is held throughout, as its own code does; the bounds are those of the test.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)
from torch.utils.data import DataLoader

import clrtool
from tests import test_projects as made

POLICIES = ("triangular2", "one_cycle")


class Project(NamedTuple):
    """A model and an optimizer of the project, at its own rate; its loaders; and how it is trained and measured."""

    model: Callable[[], Any]
    optimizer: Callable[[Any], torch.optim.Optimizer]
    train: Any
    heldout: Any
    options: dict[str, Any]


def loaders(kind: Callable[[int, int], Any], size: int, batch: int, **options: Any) -> tuple[Any, Any]:
    return DataLoader(kind(size, 0), batch, shuffle=True, **options), DataLoader(kind(size // 3, 1), batch, **options)


def right_graphs(model: Any, data: Any) -> tuple[Any, int]:
    return (model(data.x, data.batch).argmax(1) == data.y).sum(), data.num_graphs


def graph_loss(model: Any, data: Any) -> Any:
    return F.cross_entropy(model(data.x, data.batch), data.y)


def right_labels(model: Any, batch: Any) -> tuple[Any, int]:
    return (model(batch).argmax(1) == batch.y).sum(), batch.num_graphs


def label_loss(model: Any, batch: Any) -> Any:
    return F.cross_entropy(model(batch), batch.y)


def graph_loaders() -> tuple[Any, Any]:
    from torch_geometric.loader import DataLoader as GraphLoader

    train, heldout = ([*made.graphs_of_geometric(size, seed)] for size, seed in ((600, 1), (200, 2)))
    return GraphLoader(train, 30, shuffle=True), GraphLoader(heldout, 50)


def twins_loss(outputs: Any, targets: Any) -> Any:
    return F.binary_cross_entropy(outputs.squeeze(), targets)


def projects() -> dict[str, Project]:
    """Each with the optimizer and the rate that its authors chose."""
    optim = torch.optim
    detector = {"step": made.losses_of, "eval_loss": "train", "epochs": 25}
    return {
        "torchvision, Faster R-CNN": Project(
            made.detector, lambda model: optim.SGD(model.parameters(), 0.005, momentum=0.9, weight_decay=0.0005),
            *loaders(made.boxes, 48, 4, collate_fn=made.as_lists), detector,
        ),
        "Pytorch-UNet": Project(
            made.Down, lambda model: optim.RMSprop(model.parameters(), 1e-5, weight_decay=1e-8, momentum=0.999),
            *loaders(made.masks, 120, 6), {"loss": made.dice_and_cross_entropy, "epochs": 30},
        ),
        "word language model": Project(
            made.Words, lambda model: optim.SGD(model.parameters(), 20.0),
            made.passages(8, 60, 0), made.passages(8, 12, 1), {"step": made.carried, "clip_norm": 0.25, "epochs": 30},
        ),
        "siamese network": Project(
            made.Twins, lambda model: optim.Adadelta(model.parameters(), 1.0), *loaders(made.twins, 600, 20),
            {"loss": twins_loss, "epochs": 30},
        ),
        "nanoGPT": Project(
            made.Nano, lambda model: model.configure_optimizers(0.1, 6e-4), made.Drawn(0), [*islice(made.Drawn(1), 20)],
            {"step": lambda model, batch: model(*batch)[1], "steps": 1000, "clip_norm": 1.0},
        ),
        "graph classification": Project(
            made.Pooled, lambda model: optim.Adam(model.parameters(), 0.01, weight_decay=5e-4), made.graphs(40, 0),
            made.graphs(15, 1),
            {"step": graph_loss, "measure": right_graphs, "metric": "accuracy", "eval_loss": "eval", "epochs": 30},
        ),
        "peft, LoRA on BERT": Project(
            made.adapted, lambda model: optim.AdamW(model.parameters(), 3e-4), *loaders(made.sentences, 960, 32),
            {"epochs": 30},
        ),
        "torch_geometric, GCN": Project(
            made.convolved, lambda model: optim.Adam(model.parameters(), 0.01), *graph_loaders(),
            {"step": label_loss, "measure": right_labels, "metric": "accuracy", "eval_loss": "eval", "epochs": 30},
        ),
    }  # fmt: skip


def row(name: str, project: Project) -> str:
    """Test and train a project, and tell it as a row of the table."""
    torch.manual_seed(0)
    given = partial(dict, progress=False, **project.options)
    job = project.model, project.optimizer, project.train, project.heldout
    own = float(project.optimizer(project.model()).param_groups[0]["lr"])
    test = clrtool.range_test(*job, **given())
    if test.max_lr is None:
        return f"| {name} | {own:g} | none | {test.verdict.word} | | |"
    found = clrtool.compare(*job, **given(bounds=test, policies=[own, *POLICIES], trainings=3))
    means = [f"{each.mean:.4g}" if each.mean is not None else "not finite" for each in found.record.candidates]
    bounds = f"{test.base_lr:.2g} to {test.max_lr:.2g}"
    return f"| {name} | {own:g} | {bounds} | {test.verdict.word} | {found.record.metric.label} | {' / '.join(means)} |"


def main() -> None:
    warnings.simplefilter("ignore")
    print("| project | its rate | bounds | verdict | metric | its rate / triangular2 / one_cycle |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, project in projects().items():
        if not sys.argv[1:] or name in sys.argv[1:]:
            print(row(name, project), flush=True)


if __name__ == "__main__":
    main()
