"""A sweep of clrtool, the loop that one would write by hand, and the finders that people use, on the same work.

All train the same model from the same data in memory, with SGD and momentum, over the same learning rates; nothing
stops early. The finders get the lightest loader that each of them takes: it hands out whole batches, gathered from
one tensor. What is timed is the call that sweeps; making trainers and learners is not.
"""

from __future__ import annotations

import contextlib
import io
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from itertools import chain, repeat
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset

from clrtool.config.components import AugmentConfig, OptimizerConfig
from clrtool.config.schema import SweepConfig, TrainingConfig
from clrtool.core.reading.metric import LOSS
from clrtool.engine.configured.workload import ConfiguredWorkload
from clrtool.engine.data.loader import ResidentLoader
from clrtool.engine.data.tensors import Samples
from clrtool.engine.data.transforms import Transform
from clrtool.engine.inprocess.build import build_workload
from clrtool.engine.inprocess.options import Settings
from clrtool.engine.inprocess.supervised import SupervisedSteps
from clrtool.engine.models.builtin import convnet, mlp
from clrtool.engine.rangetest.sweep import run_sweep
from clrtool.engine.runtime.device import arithmetic
from clrtool.engine.training.cuda_graph import CapturedEnsemble
from clrtool.engine.training.optimizers import OptimizerRecipe
from clrtool.engine.training.trainer import Trainer
from clrtool.engine.training.workload import Workload
from configs.caffe_factories import cifar10_full

Work = Callable[[], object]
LOWEST, HIGHEST = 1e-5, 1e-2  # no model diverges here, so that no finder has less to do
SAMPLES = 10_240
# Iterations between two evaluations of a range test of 300 with 60 of them: as many are trained in one call.
SEGMENT = 5


def resnet18() -> nn.Module:
    """ResNet-18 as it is used on 32 x 32 images: a 3 x 3 first convolution, no pooling behind it."""
    from torchvision.models import resnet18 as build

    model: nn.Module = build(num_classes=10)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return model


MODELS = {
    "tiny MLP": partial(mlp, (3, 32, 32), 10, (64,)),
    "small convnet": partial(convnet, (3, 32, 32), 10),
    "ResNet-18": resnet18,
    "cifar10_full": partial(cifar10_full, (3, 32, 32), 10),
}


@dataclass(frozen=True)
class Case:
    """One row: what is trained, and how often.

    Args:
        precision: as in a config; the arithmetic of all ways, so that none gains by numbers that are less exact.
        as_graph: run clrtool's step for CUDA, and the one that is captured by hand; on a CPU both uncaptured.
    """

    model: str
    batch_size: int
    iterations: int
    repeats: int
    device: str = "cpu"
    precision: str = "fp32"
    as_graph: bool = False

    @property
    def captured(self) -> bool:
        return self.as_graph and self.device == "cuda"

    @property
    def lrs(self) -> list[float]:
        return np.geomspace(LOWEST, HIGHEST, self.iterations).tolist()

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")

    def data(self) -> tuple[Tensor, Tensor]:
        return noise(self.device)

    def parts(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = MODELS[self.model]().to(self.device)
        return model, torch.optim.SGD(model.parameters(), lr=LOWEST, momentum=0.9)

    def wrapped(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """For finders without a precision of their own: a model that runs in autocast."""
        model, optimizer = self.parts()
        return (Autocast(model, self) if self.precision == "bf16" else model), optimizer

    def workload(self, *, channels_last: bool) -> Workload:
        device = torch.device(self.device)
        images, labels = self.data()
        transform = Transform(
            torch.zeros((), device=device), torch.ones((), device=device), AugmentConfig(), channels_last
        )
        samples = Samples(transform.lay_out(images), labels)
        return ConfiguredWorkload(
            loader=ResidentLoader(samples, transform, self.batch_size),
            heldout=samples.take(slice(0, 100)),
            make_model=MODELS[self.model],
            make_optimizer=OptimizerRecipe(torch.optim.SGD, OptimizerConfig(args={"momentum": 0.9})),
            loss=nn.functional.cross_entropy,
            device=device,
            precision=self.precision,
            channels_last=channels_last,
            data_sha256="",
            training=TrainingConfig(),
        )


@cache
def noise(device: str) -> tuple[Tensor, Tensor]:
    """The images and labels that all ways train on."""
    images = torch.randn(SAMPLES, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return images.to(device), (torch.arange(SAMPLES) % 10).to(device)


class Autocast(nn.Module):
    def __init__(self, model: nn.Module, case: Case) -> None:
        super().__init__()
        self.model, self.case = model, case

    def forward(self, x: Tensor) -> Tensor:
        with self.case.autocast():
            return self.model(x).float()


class Rows(Dataset[tuple[Tensor, Tensor]]):
    """``rows[places]`` is a batch."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, places: list[int]) -> tuple[Tensor, Tensor]:
        index = torch.tensor(places, device=self.labels.device)
        return self.images[index], self.labels[index]


def loader(case: Case) -> DataLoader[tuple[Tensor, Tensor]]:
    rows = Rows(*case.data())
    return DataLoader(rows, batch_size=None, sampler=BatchSampler(RandomSampler(rows), case.batch_size, drop_last=True))


def bare(case: Case, layout: torch.memory_format = torch.contiguous_format) -> Work:
    """The loop that one would write: a shuffled order, a gather, a step."""
    images, labels = case.data()
    images = images.to(memory_format=layout)

    def work() -> None:
        model, optimizer = case.parts()
        model = model.to(memory_format=layout)
        per_epoch = len(labels) // case.batch_size
        for iteration, lr in enumerate(case.lrs):
            position = iteration % per_epoch
            if position == 0:
                order = torch.randperm(len(labels), device=labels.device)
            places = order[position * case.batch_size :][: case.batch_size]
            optimizer.param_groups[0]["lr"] = lr
            optimizer.zero_grad()
            with case.autocast():
                loss = nn.functional.cross_entropy(model(images[places]), labels[places])
            loss.backward()
            optimizer.step()

    return work


def ours(case: Case, *, channels_last: bool) -> Work:
    """The sweep's training, losses read and checked; as a graph one that is captured beforehand."""
    workload = case.workload(channels_last=channels_last)
    if not case.as_graph:
        return lambda: Trainer(workload, 0).train(0, case.lrs)
    return team(workload, case, seeds=1)


def swept(case: Case) -> object:
    """A whole sweep of clrtool with all that belongs to it: capture, check and evaluations."""
    workload = case.workload(channels_last=False)
    epochs = case.iterations / workload.iterations_per_epoch
    sweep = SweepConfig(start_lr=LOWEST, end_lr=HIGHEST, epochs=epochs, evaluations=case.iterations // SEGMENT, seeds=1)
    return run_sweep(workload, sweep)


def sample_loader(case: Case) -> DataLoader[tuple[Tensor, ...]]:
    """The usual kind: samples one by one, which are put together to batches."""
    return DataLoader(TensorDataset(*case.data()), case.batch_size, shuffle=True, drop_last=True)


def borrowed(case: Case, load: Callable[[Case], DataLoader[Any]]) -> Work:
    """The training of ``clrtool.range_test``, on copies of a model, an optimizer and a DataLoader."""
    model, optimizer = case.parts()
    batches = load(case)
    workload = build_workload(
        model, optimizer, batches, [case.data()], SupervisedSteps(None, LOSS), Settings.of({"evaluations": 2}), find_metric=False
    )  # fmt: skip
    return lambda: Trainer(workload, 0).train(0, case.lrs)


def over_a_loader(case: Case, load: Callable[[Case], DataLoader[Any]]) -> Work:
    """The loop that one would write over the same DataLoader."""

    def work() -> None:
        model, optimizer = case.parts()
        endless = chain.from_iterable(repeat(load(case)))
        for lr, (images, labels) in zip(case.lrs, endless, strict=False):
            optimizer.param_groups[0]["lr"] = lr
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()

    return work


def team(workload: Workload, case: Case, seeds: int) -> Work:
    """The steps of so many seeds at once, in the pieces in which a range test takes them."""
    with workload.on_device():
        ensemble = CapturedEnsemble(workload, range(seeds), case.lrs, graph=case.captured)
        assert ensemble.matches_reference()

    def work() -> None:
        for start in range(0, case.iterations, SEGMENT):
            ensemble.train(start, min(start + SEGMENT, case.iterations))

    return work


def three_seeds(case: Case) -> Work:
    return team(case.workload(channels_last=False), case, seeds=3)


def hand_captured(case: Case) -> Work:
    """A CUDA graph of the same step as one writes it: places and learning rate copied in before each replay."""
    images, labels = case.data()
    model, _ = case.parts()
    lr = torch.tensor(LOWEST, device=case.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, fused=True)
    places = torch.arange(case.batch_size, device=case.device)
    table = torch.tensor(case.lrs, device=case.device)

    def step() -> None:
        optimizer.zero_grad()
        with case.autocast():
            loss = nn.functional.cross_entropy(model(images[places]), labels[places])
        loss.backward()
        optimizer.step()

    replay = Captured(_graph_of(step, optimizer), step) if case.captured else step

    def work() -> None:
        per_epoch = len(labels) // case.batch_size
        for iteration in range(case.iterations):
            position = iteration % per_epoch
            if position == 0:
                order = torch.randperm(len(labels), device=labels.device)
            places.copy_(order[position * case.batch_size :][: case.batch_size])
            lr.copy_(table[iteration])
            replay()

    return work


class Captured(NamedTuple):
    """A graph with the step that it was captured of, whose weights it writes to and does not keep in memory."""

    graph: torch.cuda.CUDAGraph
    step: Work

    def __call__(self) -> None:
        self.graph.replay()


def _graph_of(step: Callable[[], None], optimizer: torch.optim.Optimizer) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    optimizer.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph


def torch_lr_finder(case: Case) -> Work:
    from torch_lr_finder import LRFinder

    model, optimizer = case.wrapped()
    finder = LRFinder(model, optimizer, nn.CrossEntropyLoss(), device=case.device)
    batches = loader(case)
    return lambda: finder.range_test(batches, end_lr=HIGHEST, num_iter=case.iterations, diverge_th=1e9)


def ignite(case: Case) -> Work:
    from ignite.engine import create_supervised_trainer
    from ignite.handlers import FastaiLRFinder

    model, optimizer = case.wrapped()
    trainer = create_supervised_trainer(model, optimizer, nn.CrossEntropyLoss(), device=case.device)
    finder, batches = FastaiLRFinder(), loader(case)
    kept = {"model": model, "optimizer": optimizer}

    def work() -> None:
        with finder.attach(
            trainer, to_save=kept, num_iter=case.iterations, start_lr=LOWEST, end_lr=HIGHEST, diverge_th=1e9
        ) as attached:
            attached.run(batches)

    return work


def lightning(case: Case) -> Work:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.lr = case.parts()[0], LOWEST

        def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    batches = loader(case)

    def work() -> None:
        trainer = lightning.Trainer(
            accelerator="gpu" if case.device == "cuda" else "cpu", devices=1, logger=False, enable_progress_bar=False,
            enable_checkpointing=False, enable_model_summary=False, max_epochs=1000,
            precision="bf16-mixed" if case.precision == "bf16" else "32-true",
        )  # fmt: skip
        from lightning.pytorch.tuner import Tuner

        Tuner(trainer).lr_find(
            Module(), train_dataloaders=batches, num_training=case.iterations, min_lr=LOWEST, max_lr=HIGHEST,
            early_stop_threshold=None,
        )  # fmt: skip

    return work


def fastai(case: Case) -> Work:
    from fastai.callback import progress, schedule  # noqa: F401 (no_bar and lr_find are patched in by them)
    from fastai.data.core import DataLoaders
    from fastai.learner import Trainer as FastaiLearner
    from fastai.optimizer import OptimWrapper

    model, _ = case.wrapped()
    loaders = DataLoaders(loader(case), loader(case), device=case.device)
    sgd = partial(OptimWrapper, opt=torch.optim.SGD, momentum=0.9)
    learner = FastaiLearner(loaders, model, loss_func=nn.CrossEntropyLoss(), opt_func=sgd)

    def work() -> None:
        with learner.no_bar(), learner.no_logging():
            learner.lr_find(
                start_lr=LOWEST,
                end_lr=HIGHEST,
                num_it=case.iterations,
                stop_div=False,
                show_plot=False,
                suggest_funcs=(),
            )

    return work


PEERS = {"torch-lr-finder": torch_lr_finder, "Ignite": ignite, "Lightning": lightning, "fastai": fastai}
MODULES = {"torch-lr-finder": "torch_lr_finder", "Ignite": "ignite", "Lightning": "lightning", "fastai": "fastai"}
CASES = (
    Case("tiny MLP", 128, 200, 7),
    Case("tiny MLP", 512, 200, 5),
    Case("small convnet", 128, 200, 3),
    Case("small convnet", 512, 50, 3),
    Case("ResNet-18", 128, 5, 1),
)


def absent() -> list[str]:
    """The finders that are not installed."""
    return [name for name, module in MODULES.items() if find_spec(module) is None]


def ways(case: Case) -> dict[str, Callable[[Case], Work]]:
    """Every way to do the work of a case that there is here, by name; none is made yet."""
    found: dict[str, Callable[[Case], Work]] = {"bare loop": bare, "clrtool": partial(ours, channels_last=False)}
    if case.model != "tiny MLP":
        found["clrtool, its layout"] = partial(ours, channels_last=True)
    if case.as_graph:
        found |= {"hand-captured": hand_captured, "clrtool, 3 seeds": three_seeds}
    return found | {name: peer for name, peer in PEERS.items() if name not in absent()}


def measure(case: Case) -> dict[str, float]:
    """Milliseconds of an iteration for the bare loop, and every other way as a multiple of it: medians over the turns."""
    base, found = "bare loop", dict[str, float]()
    for name in [each for each in ways(case) if each != base]:
        found[name], seconds = pairs(case, base, name)
        found.setdefault(base, 1e3 * seconds)
    return found


def pairs(case: Case, base: str, name: str) -> tuple[float, float]:
    """How many times as long as ``base`` a way takes, and the seconds of an iteration of ``base``: medians.

    Each way is clocked right beside its base, before it and after it in turn, for the speed of a machine drifts. The
    ways that take no time to set up run a fifth of the iterations five times as often.
    """
    if name not in PEERS:
        few = min(case.iterations, max(5, case.iterations // 5))
        case = replace(case, iterations=few, repeats=5 * case.repeats)
    make = ways(case)
    with arithmetic(case.precision, deterministic=False):
        loop, work = make[base](case), make[name](case)
        return in_turns(case, loop, lambda: make[name](case) if name in PEERS else work)


def in_turns(case: Case, loop: Work, make: Callable[[], Work]) -> tuple[float, float]:
    """See :func:`pairs`; a finder of others can be used once, so it is made for each turn."""
    ratios, bases = list[float](), list[float]()
    for turn in range(case.repeats + 1):
        work = make()
        first, second = (loop, work) if turn % 2 else (work, loop)
        seconds = clock(case, first), clock(case, second)
        base, its = seconds if turn % 2 else seconds[::-1]
        if turn:  # the first turn warms up
            bases.append(base)
            ratios.append(its / base)
    return statistics.median(ratios), statistics.median(bases) / case.iterations


def clock(case: Case, work: Work) -> float:
    """Seconds of a work whose words go nowhere."""
    nowhere = io.StringIO()
    _wait(case)
    begin = time.perf_counter()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        work()
    _wait(case)
    return time.perf_counter() - begin


def _wait(case: Case) -> None:
    if case.device == "cuda":
        torch.cuda.synchronize()


def table(cases: tuple[Case, ...]) -> Iterator[str]:
    """Markdown rows, printed as they are measured."""
    warnings.simplefilter("ignore")
    names = ["clrtool", "clrtool, its layout", *PEERS]
    yield f"| work | bare loop, ms an iteration | {' | '.join(names)} |"
    yield f"| --- | --- |{' --- |' * len(names)}"
    for case in cases:
        found = measure(case)
        cells = " | ".join(f"{found[name]:.2f}" if name in found else "" for name in names)
        work = f"{case.model}, batch {case.batch_size}, {case.precision}, {case.iterations} iterations"
        row = f"| {work} | {found['bare loop']:.2f} | {cells} |"
        sys.stdout.write(row + "\n")
        sys.stdout.flush()
        yield row
