"""Trainings of transformers and Lightning as people write them, beside the rate of their own code.

    python -m tests.benchmarks.framework_projects [NAMES]

Each project is trained by its own Trainer, three seeds: as its code has it, its scheduler included, then by the bounds of
a range test with defaults. Those that are fine-tuned begin from a network that has learned another task.
"""

from __future__ import annotations

import logging
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import lightning.pytorch as lightning
import torch
import transformers
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)
from torch.utils.data import DataLoader, IterableDataset

import clrtool
import clrtool.lightning
import clrtool.transformers
from clrtool.core.planning.make import make_plan
from clrtool.core.planning.plan import Plan
from tests import test_frameworks as made

POLICIES = ("triangular2", "one_cycle")
SEEDS = 3


class Project(NamedTuple):
    """How a training of a seed is made; its rate; and how it is tested, and trained with a plan or without."""

    make: Callable[[int], Any]
    rate: str
    metric: str
    test: Callable[[Any], Any]
    train: Callable[[Any, Plan | None], float]


class Text(IterableDataset):
    """A stream of sentences in which a word follows from the one before, but for every tenth."""

    def __init__(self, seed: int, size: int | None = None) -> None:
        self.seed, self.size = seed, size

    def __iter__(self) -> Any:
        generator, sent = torch.Generator().manual_seed(self.seed), 0
        while sent != self.size:
            words = [torch.randint(2, 40, (), generator=generator)]
            for draw in torch.rand(7, generator=generator):
                words.append(torch.randint(2, 40, (), generator=generator) if draw < 0.1 else (7 * words[-1] + 3) % 40)
            yield {"input_ids": torch.stack(words), "labels": torch.stack(words)}
            sent += 1


class Other(made.Sentences):
    """The sentences by their last word: what the network knows that is fine-tuned by the first."""

    def __getitem__(self, place: int) -> dict[str, Any]:
        tokens = self.tokens[place]
        return {"input_ids": tokens, "labels": (tokens[-1] < 20).long()}


def huggingface(model: Any, seed: int, **words: Any) -> transformers.Trainer:
    given = {name: words.pop(name) for name in ("train_dataset", "eval_dataset", "compute_metrics") if name in words}
    return transformers.Trainer(model, made.arguments(tempfile.mkdtemp(), seed=seed, **words), **given)


@cache
def bert_of_another_task() -> dict[str, torch.Tensor]:
    model = made.bert()
    huggingface(model, 0, learning_rate=1e-3, num_train_epochs=8, train_dataset=Other(800, 5)).train()
    return model.cpu().state_dict()


def scored(seed: int) -> transformers.Trainer:
    """A classification with ``compute_metrics``, at the rate of transformers' run_glue."""
    model = made.bert()
    model.load_state_dict(bert_of_another_task())
    return huggingface(
        model, seed, learning_rate=2e-5, num_train_epochs=6, per_device_eval_batch_size=100, train_dataset=made.Sentences(800, 0),
        eval_dataset=made.Sentences(400, 1), compute_metrics=made.scores, metric_for_best_model="f1",
    )  # fmt: skip


def streamed(seed: int) -> transformers.Trainer:
    """A language model of a stream, by steps, at the default rate of TrainingArguments."""
    return huggingface(
        made.gpt2(), seed, max_steps=500, per_device_eval_batch_size=100, train_dataset=Text(0), eval_dataset=[*Text(1, size=200)]
    )  # fmt: skip


def trained_by_transformers(name: str) -> Callable[[transformers.Trainer, Plan | None], float]:
    def train(trainer: transformers.Trainer, plan: Plan | None) -> float:
        if plan is not None:
            clrtool.transformers.apply_plan(trainer, plan)
        trainer.train()
        return float(trainer.evaluate()[name])

    return train


class Follow(lightning.Callback):
    """A plan in place of whatever schedulers a module has."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def on_train_start(self, trainer: Any, module: Any) -> None:
        trainer.strategy.lr_scheduler_configs = []
        self.scheduler = clrtool.PlanScheduler(trainer.optimizers, self.plan)

    def on_train_batch_end(self, *_: Any) -> None:
        self.scheduler.step()


class Thawed(made.Module):
    """Lightning's example of fine-tuning: Adam at 1e-3, and a tenth of it after some epochs."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Sequential(nn.Linear(8, 32), nn.ReLU()), nn.Linear(32, 2)
        self.net = nn.Sequential(self.backbone, self.head)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam([each for each in self.parameters() if each.requires_grad], 1e-3)
        return [optimizer], [torch.optim.lr_scheduler.MultiStepLR(optimizer, [8, 11], 0.1)]


class Taught(Thawed):
    """What its backbone knows: the product of two inputs."""

    def train_dataloader(self) -> Any:
        inputs = torch.randn(1000, 8, generator=torch.Generator().manual_seed(7))
        return DataLoader([(each, int(each[0] * each[1] > 0)) for each in inputs], 32, shuffle=True)


def two_optimizers(seed: int) -> tuple[Any, Any]:
    torch.manual_seed(seed)
    return made.trainer(tempfile.mkdtemp()), made.Two()


@cache
def backbone_of_another_task() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    taught = Taught()
    made.trainer(tempfile.mkdtemp(), max_epochs=10, limit_val_batches=0).fit(taught)
    return taught.backbone.state_dict()


def thawing(seed: int) -> tuple[Any, Any]:
    module = Thawed()
    module.backbone.load_state_dict(backbone_of_another_task())
    torch.manual_seed(seed)
    thaw = lightning.callbacks.BackboneFinetuning(4, lambda _: 1.0, backbone_initial_ratio_lr=0.1)
    return made.trainer(tempfile.mkdtemp(), max_epochs=12, callbacks=[thaw]), module


def trained_by_lightning(given: tuple[Any, Any], plan: Plan | None) -> float:
    trainer, module = given
    if plan is not None:
        trainer.callbacks.append(Follow(plan))
    trainer.fit(module)
    module.eval()
    inputs, targets = made.HELDOUT[:]
    with torch.no_grad():
        return float(F.cross_entropy(module(inputs), targets))


def tested_by_lightning(given: tuple[Any, Any]) -> Any:
    return clrtool.lightning.range_test(*given, metric="loss", progress=False)


def tested_by_transformers(trainer: transformers.Trainer) -> Any:
    words = {"higher_is_better": True} if trainer.args.metric_for_best_model else {}
    return clrtool.transformers.range_test(trainer, progress=False, **words)


PROJECTS = {
    "transformers, fine-tuning with compute_metrics": Project(
        scored, "2e-05", "f1", tested_by_transformers, trained_by_transformers("eval_f1")
    ),
    "transformers, max_steps of a stream": Project(
        streamed, "5e-05", "held-out loss", tested_by_transformers, trained_by_transformers("eval_loss")
    ),
    "Lightning, two optimizers": Project(
        two_optimizers, "0.1 and 0.001", "held-out loss", tested_by_lightning, trained_by_lightning
    ),
    "Lightning, BackboneFinetuning": Project(
        thawing, "0.001", "held-out loss", tested_by_lightning, trained_by_lightning
    ),
}


def row(name: str, project: Project) -> str:
    """Test and train a project, and tell it as a row of the table."""
    test = project.test(project.make(0))
    if test.max_lr is None:
        return f"| {name} | {project.rate} | none | {test.verdict.word} | | |"
    length = {"epochs": test.plan.epochs, "iterations_per_epoch": test.plan.iterations_per_epoch}
    plans = [None, *(make_plan(test.base_lr, test.max_lr, policy=each, **length) for each in POLICIES)]
    means = [
        f"{statistics.mean(project.train(project.make(seed), plan) for seed in range(SEEDS)):.4g}" for plan in plans
    ]
    bounds = f"{test.base_lr:.2g} to {test.max_lr:.2g}"
    return f"| {name} | {project.rate} | {bounds} | {test.verdict.word} | {project.metric} | {' / '.join(means)} |"


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable()
    for name, project in PROJECTS.items():
        if not sys.argv[1:] or name in sys.argv[1:]:
            print(row(name, project), flush=True)


if __name__ == "__main__":
    main()
