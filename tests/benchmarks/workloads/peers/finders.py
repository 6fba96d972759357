"""Learning-rate finders, which read one sweep of the training loss: each with its own defaults, and 100 iterations.

A finder that starts from the rate of the optimizer gets the 1e-7 of torch-lr-finder's README. Ignite sweeps one pass over
the data unless it is told how far, which is 10 iterations of some jobs: it gets the 100 of the others.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.workloads.peers.result import Result
from tests.benchmarks.workloads.peers.training import Started, default_lr, loader

START = 1e-7


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Words, warnings and progress bars go nowhere."""
    nowhere = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        yield


def optimizer_default(job: Any, seed: int) -> dict[str, Result]:
    """The rate that torch's optimizer takes when it is given none."""
    return {"optimizer's default": Result(0, default_lr(type(Started(job, seed, START).optimizer)))}


def torch_lr_finder(job: Any, seed: int) -> dict[str, Result]:
    """The steepest fall of the smoothed loss."""
    from matplotlib.figure import Figure
    from torch_lr_finder import LRFinder

    started = Started(job, seed, START)
    finder = LRFinder(started.model, started.optimizer, job.loss, device="cpu")
    with quiet():
        finder.range_test(loader(job))
        _, *found = finder.plot(ax=Figure().subplots())
    return {"torch-lr-finder": Result(started.steps, found[0] if found else None)}


def ignite(job: Any, seed: int) -> dict[str, Result]:
    """The steepest fall of the smoothed loss before its minimum."""
    from ignite.engine import create_supervised_trainer
    from ignite.handlers import FastaiLRFinder

    started = Started(job, seed, START)
    trainer = create_supervised_trainer(started.model, started.optimizer, job.loss, device="cpu")
    kept = {"model": started.model, "optimizer": started.optimizer}
    finder = FastaiLRFinder()
    with quiet(), finder.attach(trainer, to_save=kept, num_iter=100) as attached:
        attached.run(loader(job))
    found = finder.lr_suggestion()
    return {"Ignite FastaiLRFinder": Result(started.steps, found[0] if isinstance(found, list) else found)}


def lightning(job: Any, seed: int) -> dict[str, Result]:
    """The steepest rise of the rate's effect, as ``Tuner.lr_find`` suggests it."""
    import lightning as package
    from lightning.pytorch.tuner import Tuner

    started = Started(job, seed, START, clip=False)  # the step of this package computes the gradients within itself

    class Module(package.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.lr = started.model, START

        def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            return job.loss(self.model(batch[0]), batch[1])  # type: ignore[no-any-return]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return started.make_optimizer(self.model, self.lr)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with quiet(), tempfile.TemporaryDirectory() as folder:
        trainer = package.Trainer(
            accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
            max_epochs=1000, gradient_clip_val=job.clip, default_root_dir=folder,
        )  # fmt: skip
        found = Tuner(trainer).lr_find(Module(), train_dataloaders=loader(job))
    return {"Lightning lr_find": Result(started.steps, found.suggestion() if found else None)}


def fastai(job: Any, seed: int) -> dict[str, Result]:
    """Its four suggestions from one sweep."""
    with quiet():
        from fastai.callback import progress, schedule  # noqa: F401 (no_bar and lr_find are patched in by them)
        from fastai.data.core import DataLoaders
        from fastai.learner import Learner
        from fastai.optimizer import OptimWrapper

    started = Started(job, seed, START)
    rules = (schedule.slide, schedule.valley, schedule.minimum, schedule.steep)
    with quiet(), tempfile.TemporaryDirectory() as folder:
        learner = Learner(
            DataLoaders(loader(job), loader(job), device="cpu"), started.model, loss_func=job.loss, path=folder,
            opt_func=lambda _, lr: OptimWrapper(opt=started.make_optimizer(started.model, lr)),
        )  # fmt: skip
        with learner.no_bar(), learner.no_logging():
            found = learner.lr_find(show_plot=False, suggest_funcs=rules)
    return {f"fastai {rule}": Result(started.steps, float(lr)) for rule, lr in found._asdict().items()}
