"""The problem of a program's own model, optimizer and loaders: all of it copied, and nothing of it changed.

A sweep trains copies. What the program passed is as it was afterwards, bit for bit, and so are its generators of random
numbers, however the sweep ended.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from clrtool.config import SweepConfig, TrainingConfig
from clrtool.core.metric import LOSS
from clrtool.engine.evaluations import budget, flops_of
from clrtool.engine.generators import Draws, generator_states, restore_generators
from clrtool.engine.learner import Learner
from clrtool.engine.loaders import (
    Batches,
    BorrowedFeed,
    Heldout,
    check_loader,
    length_of,
    places_of,
    samples_in,
    to_device,
    twin_of,
)
from clrtool.engine.losses import IGNORED
from clrtool.engine.losses import chance as share_of_commonest
from clrtool.engine.optimizers import describe_groups
from clrtool.engine.problem import Problem, arithmetic
from clrtool.engine.response import response_warning
from clrtool.engine.steps import Measured, OwnSteps, UsualSteps, number_of
from clrtool.errors import ConfigError

ModelSource = nn.Module | Callable[[], nn.Module]
OptimizerSource = Optimizer | Callable[[nn.Module], Optimizer]
# Batches on which a step is tried out.
TRIED = 3


@dataclass(frozen=True, eq=False)
class CopiedModel:
    """Copies of a model as it is, or fresh ones of a function that makes them."""

    source: ModelSource

    def __call__(self) -> nn.Module:
        if not isinstance(self.source, nn.Module):
            model = self.source()
            if not isinstance(model, nn.Module):
                raise ConfigError(f"model: must be a torch.nn.Module, or return one; it is {type(model).__name__}")
            return model
        try:
            return copy.deepcopy(self.source)
        except Exception as error:
            raise ConfigError(
                f"model: cannot be copied ({type(error).__name__}: {error}): give functions, model=lambda: ... and "
                "optimizer=lambda model: ..., which make fresh ones"
            ) from error

    @property
    def modes(self) -> list[bool] | None:
        """Training or evaluation mode of every module, of a model that is given in training mode."""
        if isinstance(self.source, nn.Module) and self.source.training:
            return [module.training for module in self.source.modules()]
        return None


@dataclass(frozen=True, eq=False)
class CopiedOptimizer:
    """Copies of an optimizer with its state, over the parameters of a copied model, or fresh ones of a function.

    Every group holds ``lr_ratio``, its learning rate over that of the first group, as :class:`PlanScheduler` has it.
    """

    source: OptimizerSource
    model: ModelSource

    @property
    def name(self) -> str:
        return type(self.source).__name__ if isinstance(self.source, Optimizer) else "the optimizer"

    def __call__(self, model: nn.Module, **options: Any) -> Optimizer:  # noqa: ARG002 (those that make a step faster)
        optimizer = self._copy(model) if isinstance(self.source, Optimizer) else self.source(model)
        if not isinstance(optimizer, Optimizer):
            raise ConfigError(
                f"optimizer: must be a torch.optim.Optimizer, or a function of the model that returns one; it gave "
                f"{type(optimizer).__name__}"
            )
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ConfigError("optimizer: LBFGS searches along a line, so its steps do not follow the learning rate")
        rates = [float(group.get("initial_lr", group.get("lr", 1.0))) for group in optimizer.param_groups]
        if not rates[0] > 0:
            raise ConfigError(
                f"optimizer: the lr of its first group must be above 0, for the others follow it: {rates}"
            )
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr_ratio"] = rate / rates[0]
        return optimizer

    def _copy(self, model: nn.Module) -> Optimizer:
        given = self.source
        assert isinstance(given, Optimizer)
        if not isinstance(self.model, nn.Module):
            raise ConfigError(
                "optimizer: a model that a function makes needs a function too: optimizer=lambda model: ..."
            )
        memo: dict[int, Any] = {
            id(old): new for old, new in zip(self.model.parameters(), model.parameters(), strict=True)
        }
        strangers = [each for group in given.param_groups for each in group["params"] if id(each) not in memo]
        if strangers:
            raise ConfigError(
                f"optimizer: holds {len(strangers)} parameters that are not the model's: give the module that has them "
                "all, or functions, model=lambda: ... and optimizer=lambda model: ..."
            )
        try:
            copied = copy.deepcopy(given, memo)
            for name, value in vars(given).items():  # torch copies what is its own
                if name not in vars(copied) and not callable(value):
                    setattr(copied, name, copy.deepcopy(value, memo))
        except Exception as error:
            raise ConfigError(
                f"optimizer: cannot be copied ({type(error).__name__}: {error}): give a function of the model, "
                "optimizer=lambda model: ..."
            ) from error
        return copied


@dataclass(frozen=True, eq=False, kw_only=True)
class BorrowedProblem(Problem):
    """A problem whose steps are a program's own.

    Args:
        steps: what is done with a batch.
        held: the held-out batches.
        own_answers, own_chance: what was counted in them, and the share of their commonest class.
    """

    steps: OwnSteps | UsualSteps
    held: Heldout
    own_answers: int = 1
    own_chance: float | None = None
    is_plain: ClassVar[bool] = False

    @property
    def answers(self) -> int:
        return self.own_answers

    @property
    def chance(self) -> float | None:
        return self.own_chance

    def learner(self, seed: int, momenta: Sequence[float] = ()) -> Learner:
        return BorrowedLearner(self, seed, momenta=momenta)

    def seed(self, seed: int) -> None:
        """Seed the generators that are put back: torch's own way would reach devices that are in no use here."""
        seed_used(seed, self.device)

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Leave everything as it was: generators, settings, and the gradients of what was given."""
        try:
            with untouched(self.make_model.source), arithmetic(None, deterministic=self.deterministic):  # type: ignore[attr-defined]
                yield
        finally:
            if isinstance(self.train, BorrowedFeed):
                self.train.close()


@contextmanager
def as_it_is(field: str) -> Iterator[None]:  # noqa: ARG001 (where the error was is what its own lines say)
    """Leave an error what it is."""
    yield


class BorrowedLearner(Learner):
    """A copy in training. What the program's own code raises is left as it is."""

    problem: BorrowedProblem

    blamed_on = staticmethod(as_it_is)

    def begin_training(self) -> None:
        """Into the modes in which the model was given, if it was in training; else all of it into training mode."""
        super().begin_training()
        modes = self.problem.make_model.modes  # type: ignore[attr-defined]
        for module, mode in zip(self.model.modules(), modes or (), strict=modes is not None):
            module.training = module.training and mode

    def backward(self, batch: Any) -> Tensor:
        """Gradients of the batches of one step, the mean over them."""
        self.optimizer.zero_grad()
        total: Tensor | None = None
        for part in batch:
            loss = self.problem.steps.step(self.model, part).reshape(())
            if len(batch) > 1:
                loss = loss / len(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return total

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """Mean loss and metric of the held-out batches, in evaluation mode."""
        found = self.measured()
        return found.loss / max(found.samples, 1), found.metric / max(found.number, 1)

    @torch.no_grad()
    def measured(self) -> Measured:
        """Sums over the held-out batches; what they draw at random does not change the training."""
        self.model.eval()
        problem, rows = self.problem, []
        with Draws(0).entered():
            for batch in problem.held:
                row = problem.steps.evaluate(self.model, to_device(batch, problem.device, fresh=False))
                rows.append([value.detach() if isinstance(value, Tensor) else value for value in row])
        return Measured(*(sum(map(number_of, column)) for column in zip(*rows, strict=True)))


def seed_used(seed: int, device: torch.device) -> None:
    """Seed the generators of the host and of CUDA, where it is in use."""
    import random

    import numpy as np

    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)


@contextmanager
def untouched(model: ModelSource) -> Iterator[None]:
    """Put back the generators of all devices, and the gradients of a model, which a step may reach by mistake."""
    host = generator_states()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    gradients = [parameter.grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.grad = None
        with torch.inference_mode(mode=False), torch.enable_grad():
            yield
    finally:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        restore_generators(host)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def borrow(  # noqa: PLR0913 (it is what range_test is given)
    model: ModelSource,
    optimizer: OptimizerSource,
    train_loader: Any,
    heldout_loader: Any,
    *,
    steps: OwnSteps | UsualSteps,
    sweep: SweepConfig,
    find_metric: bool,
    plan_epochs: float,
    training: TrainingConfig,
    iterations_per_epoch: int | None = None,
    accumulate: int = 1,
    deterministic: bool = False,
) -> BorrowedProblem:
    """The problem of what a program has, tried out for a moment.

    Args:
        find_metric: whether the metric is what there is to measure.
        iterations_per_epoch: of a loader that has no length.
        accumulate: batches of the loader for one step.

    Raises:
        ConfigError: something cannot be copied or read, or the pieces do not fit together.
    """
    check_loader(train_loader, "train_loader")
    check_loader(heldout_loader, "heldout_loader")
    _check_model(model)
    if isinstance(steps, UsualSteps) and isinstance(steps.loss, nn.Module):
        steps = replace(steps, loss=copy.deepcopy(steps.loss))
    make_model = CopiedModel(model)
    with untouched(model), Draws(0).entered():
        first = make_model()
        device = _device_of(first)
        passes = BorrowedFeed(train_loader, 1, 1, device).batches(0, 0)
        tried = [next(passes)[0] for _ in range(TRIED)]
        passes.close()  # type: ignore[attr-defined]
    length = iterations_per_epoch or _length(train_loader, accumulate)
    size = samples_in(tried[0]) * accumulate
    problem = BorrowedProblem(
        train=BorrowedFeed(train_loader, length, size, device, accumulate),  # type: ignore[arg-type]
        heldout=None,  # type: ignore[arg-type]
        make_model=make_model,
        make_optimizer=CopiedOptimizer(optimizer, model),  # type: ignore[arg-type]
        loss=None,  # type: ignore[arg-type]
        device=device,
        precision="as set",
        channels_last=False,
        data_sha256="unknown",
        training=training,
        measure=None,
        plan_epochs=plan_epochs,
        deterministic=deterministic,
        steps=steps,
        held=Heldout(heldout_loader),
    )
    return _tried_out(problem, tried, sweep, find_metric=find_metric)


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module) and not callable(model):
        raise ConfigError(
            f"model: must be a torch.nn.Module, or a function that returns one; it is {type(model).__name__}"
        )
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise ConfigError("model: is wrapped for several processes, and a range test runs in one: give model.module")
    if isinstance(model, nn.Module) and not any(each.requires_grad for each in model.parameters()):
        raise ConfigError("model: has no parameter to train")


def _device_of(model: nn.Module) -> torch.device:
    device = next((each.device for each in model.parameters()), torch.device("cpu"))
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"model: is on {device}; a range test runs on cpu or cuda: model.to('cpu')")
    return device


def _length(loader: Any, accumulate: int) -> int:
    batches = length_of(loader)
    if not batches:
        raise ConfigError("train_loader: has no length: give iterations_per_epoch=N, the optimizer steps of one pass")
    return -(-batches // accumulate)


def _tried_out(
    problem: BorrowedProblem, tried: Sequence[Any], sweep: SweepConfig, *, find_metric: bool
) -> BorrowedProblem:
    """Take a step and evaluate once, so that pieces that do not fit are a message now, and count what that costs."""
    trial = replace(problem, train=Batches(tried, problem.iterations_per_epoch, problem.batch_size, problem.device))  # type: ignore[arg-type]
    with problem.on_device():
        learner = trial.learner(0)
        problem = _with_metric(problem, learner, tried[0], find_metric=find_metric)
        trial = replace(trial, steps=problem.steps, metric=problem.metric)
        _check_step(trial, tried[0])
        learner = trial.learner(0)
        learner.train(0, [1e-9, 1e-9])
        held = _held(problem, learner, tried[0], sweep)
        problem = replace(problem, **held)
        counted = replace(trial, held=problem.held).learner(0).measured()  # type: ignore[attr-defined]
        if not math.isfinite(counted.metric / max(counted.number, 1)):
            raise ConfigError(f"metric: is not finite for the model as it is given: {counted.metric / counted.number}")
        warning = response_warning(trial)
    return replace(
        problem,
        own_answers=max(1, round(counted.number)) if problem.metric.is_share else max(1, round(counted.samples)),
        own_chance=_chance(problem),
        groups=describe_groups(learner.optimizer),
        warnings=(warning,) if warning else (),
    )


def _with_metric(problem: BorrowedProblem, learner: Learner, batch: Any, *, find_metric: bool) -> BorrowedProblem:
    """The problem with the metric that was asked for, or that there is."""
    steps = problem.steps
    with torch.no_grad():
        learner.model.eval()
        if isinstance(steps, UsualSteps) and find_metric:
            steps = replace(steps, metric=steps.found_metric(learner.model, batch))
        else:
            asked = steps if isinstance(steps, UsualSteps) else steps.forward
            if asked is not None:
                asked.check_metric(learner.model, batch)
    return replace(problem, steps=steps, metric=steps.metric)


def _check_step(problem: BorrowedProblem, batch: Any) -> None:
    """Raise ConfigError for a loss that has nothing to do with the model that a step is given."""
    learner = problem.learner(0)
    learner.begin_training()
    loss = problem.steps.step(learner.model, to_device(batch, problem.device, fresh=False))
    if isinstance(loss, Tensor) and loss.requires_grad:
        loss.reshape(-1)[0].backward()  # type: ignore[no-untyped-call]
    if not any(each.grad is not None for each in learner.model.parameters()):
        raise ConfigError(
            "step: the loss does not depend on the model that it is given: use the argument, not a model from outside; "
            "it is another copy for each seed"
        )


def _held(problem: BorrowedProblem, learner: Learner, batch: Any, sweep: SweepConfig) -> dict[str, Any]:
    """How often is evaluated, and on what, so that training keeps most of the time."""
    learner.model.eval()
    flops = flops_of(lambda: problem.steps.evaluate(learner.model, batch)) / samples_in(batch)
    held, places = problem.held, places_of(twin_of(problem.held.loader, 0))
    if places is None:
        held.keep()
    number = size = len(places) if places is not None else sum(map(samples_in, held))
    if sweep.evaluations == "auto":
        iterations = problem.sweep_size(sweep).iterations
        number, size = budget(flops, samples_in(batch), iterations, size, problem.batch_size)
    else:
        number = sweep.evaluations
    if places is not None:
        held = replace(held, limit=size, _kept=[])
        held.keep()
    return {"held": held, "evaluations": number}


def metric_of(model: Any, heldout_loader: Any) -> str:
    """The name of what there is to measure of what the forward of a model gives; the loss where that cannot be told."""
    check_loader(heldout_loader, "heldout_loader")
    with untouched(model), Draws(0).entered(), torch.no_grad():
        copied = CopiedModel(model)().eval()
        batch = next(iter(twin_of(heldout_loader, 0)), None)
        try:
            moved = to_device(batch, _device_of(copied), fresh=False)
            return UsualSteps(None, LOSS).found_metric(copied, moved).name
        except Exception:  # noqa: BLE001 (a model need not have a forward that can be called so)
            return LOSS.name


def _chance(problem: BorrowedProblem) -> float | None:
    """The share of the commonest class among the held-out targets, where they are known."""
    if not problem.metric.is_share:
        return None
    with Draws(0).entered():
        targets = [problem.steps.targets(batch) for batch in problem.held]
    known = [each.detach().cpu().flatten() for each in targets if each is not None and not each.is_floating_point()]
    if len(known) < len(targets) or not any((each != IGNORED).any() for each in known):
        return None
    return share_of_commonest(problem.metric, torch.cat(known))
