"""The learning rates of systems that not every machine has, each asked by its own classes; an absent one is skipped."""

import importlib
import importlib.util
import os
import runpy
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

os.environ.setdefault("DS_ACCELERATOR", "cpu")


def peer(module):
    """A module of another system. Skips the test, with the reason, where it cannot be imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(module)
        except ImportError as error:
            pytest.skip(f"{module} is not installed: {error}")


def optimizer(lr=1.0, kind=torch.optim.SGD, **arguments):
    return kind([torch.nn.Parameter(torch.zeros(1))], lr=lr, **arguments)


def stepped(scheduler, sgd, steps):
    """The learning rate at each iteration of a loop that trains and then steps the scheduler."""
    rates = []
    for _ in range(steps):
        rates.append(float(sgd.param_groups[0]["lr"]))
        sgd.step()
        scheduler.step()
    return rates


def deepspeed_values(name, params, steps, lr=1.0):
    """Learning rates and first betas in the order of DeepSpeed's engine: an iteration, then a step."""
    schedules = peer("deepspeed.runtime.lr_schedules")
    adam = optimizer(lr, torch.optim.Adam)
    scheduler = getattr(schedules, name)(adam, **params)
    rates, momenta = [], []
    for _ in range(steps):
        rates.append(float(adam.param_groups[0]["lr"]))
        momenta.append(adam.param_groups[0]["betas"][0])
        scheduler.step()
    return rates, momenta


def timm_rates(name, params, lr, steps):
    """The learning rate at each step of a training that calls ``step`` at the end of every one."""
    sgd = optimizer(lr)
    return timm_values(getattr(peer("timm.scheduler"), name)(sgd, **params), sgd, steps)


def timm_values(scheduler, sgd, steps):
    """What a scheduler sets that is told after every step how many there were; one in epochs counts these alone."""
    rates = []
    for step in range(steps):
        rates.append(float(sgd.param_groups[0]["lr"]))
        scheduler.step(step + 1)
        scheduler.step_update(step + 1)
    return rates


def ignite_made(part, sgd):
    """A scheduler of ignite, or one of torch inside it, from a part as clrtool reads it."""
    handlers = peer("ignite.handlers")
    params = {name: value for name, value in part.items() if name != "type"}
    if part["type"] == "LRScheduler":
        return handlers.LRScheduler(ignite_made(params["lr_scheduler"], sgd))
    if hasattr(torch.optim.lr_scheduler, part["type"]):
        return getattr(torch.optim.lr_scheduler, part["type"])(sgd, **params)
    if part["type"] == "ConcatScheduler":
        made = [ignite_made(inner, sgd) for inner in params["schedulers"]]
        return handlers.ConcatScheduler(made, durations=params["durations"])
    if part["type"] == "create_lr_scheduler_with_warmup":
        inner = ignite_made(params.pop("lr_scheduler"), sgd)
        return handlers.create_lr_scheduler_with_warmup(inner, **params)
    if "milestones_values" in params:
        params["milestones_values"] = [tuple(pair) for pair in params["milestones_values"]]
    return getattr(handlers, part["type"])(sgd, "lr", **params)


def ignite_rates(part, lr, steps):
    sgd = optimizer(lr)
    return ignite_values(ignite_made(part, sgd), sgd, steps)


def ignite_values(scheduler, sgd, steps, name="lr"):
    rates = []
    for _ in range(steps):
        scheduler(None)
        rates.append(float(sgd.param_groups[0][name]))
    return rates


def mmengine_rates(parts, lr, steps, epoch_length=1):
    return mmengine_values(parts, optimizer(lr), steps, epoch_length)


def mmengine_values(parts, sgd, steps, epoch_length=1, name="lr"):
    """As its hook steps them: those by epoch at the end of an epoch, the others after every iteration."""
    schedulers = peer("mmengine.optim.scheduler")
    made = [mmengine_made(schedulers, dict(part), sgd, epoch_length) for part in parts]
    rates = []
    for step in range(1, steps + 1):
        rates.append(float(sgd.param_groups[0][name]))
        sgd.step()
        for scheduler in made:
            if not scheduler.by_epoch or step % epoch_length == 0:
                scheduler.step()
    return rates


def mmengine_made(schedulers, params, sgd, epoch_length):
    kind = getattr(schedulers, params.pop("type"))
    if params.pop("convert_to_iter_based", False):
        return kind.build_iter_from_epoch(optimizer=sgd, epoch_length=epoch_length, **params)
    return kind(sgd, **params)


def composer_rates(name, params, lr, max_duration, batches_per_epoch, steps):
    """The factor of a scheduler of composer at each batch, from the clock that its trainer keeps."""
    scheduler = getattr(peer("composer.optim.scheduler"), name)(**params)
    return [lr * factor for factor in composer_factors(scheduler, max_duration, batches_per_epoch, steps)]


def composer_factors(scheduler, max_duration, batches_per_epoch, steps):
    time = peer("composer.core.time")
    state = type("State", (), {})()
    state.max_duration = time.Time.from_timestring(max_duration)
    state.dataloader_len = time.Time(batches_per_epoch, "ba")
    factors = []
    for batch in range(steps):
        state.timestamp = time.Timestamp(
            epoch=batch // batches_per_epoch, batch=batch, batch_in_epoch=batch % batches_per_epoch
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a warm-up of 0 batches is one
            factors.append(scheduler(state))
    return factors


def fastai_values(name, params, n_epoch, n_iter):
    """The learning rate and the momentum of every batch of a training of ``n_epoch`` epochs of ``n_iter`` batches."""
    learner = peer("fastai.learner")
    peer("fastai.callback.schedule")  # which gives the learner its methods
    batches = peer("fastai.data.core").DataLoaders(*[[(torch.zeros(1, 1),) * 2] * n_iter] * 2)
    learn = learner.Learner(batches, torch.nn.Linear(1, 1), loss_func=torch.nn.functional.mse_loss)
    with learn.no_bar(), learn.no_logging():
        getattr(learn, name)(n_epoch, **params)
    return [float(lr) for lr in learn.recorder.hps["lr"]], learn.recorder.hps.get("mom")


def torchtune_rates(params, lr, steps):
    """Its file of schedules alone: the whole package wants a torchao of another age."""
    package = importlib.util.find_spec("torchtune")
    if package is None:
        pytest.skip("torchtune is not installed")
    path = Path(package.submodule_search_locations[0]) / "training" / "lr_schedulers.py"
    memory = ModuleType("torchtune.training.memory")
    memory.OptimizerInBackwardWrapper = object  # a type that only an annotation names
    with pytest.MonkeyPatch.context() as patch:
        for name in ("torchtune", "torchtune.training"):
            patch.setitem(sys.modules, name, ModuleType(name))
        patch.setitem(sys.modules, memory.__name__, memory)
        schedules = runpy.run_path(str(path))
    sgd = optimizer(lr)
    return stepped(schedules["get_cosine_schedule_with_warmup"](sgd, **params), sgd, steps)


def paddle_made(part):
    """A schedule of paddle from a part as clrtool reads it."""
    params = {name: value for name, value in part.items() if name != "type"}
    if isinstance(params.get("learning_rate"), dict):
        params["learning_rate"] = paddle_made(params["learning_rate"])
    return getattr(peer("paddle.optimizer.lr"), part["type"])(**params)


def paddle_rates(part, steps):
    scheduler = paddle_made(part)
    rates = []
    for step in range(steps):
        rates.append(float(scheduler()))
        if step < steps - 1:
            scheduler.step()
    return rates


def schedule_free_rates(params, steps):
    """The learning rate with which each of its steps was taken."""
    sgd = peer("schedulefree").SGDScheduleFree([torch.nn.Parameter(torch.zeros(1))], **params)
    sgd.train()
    rates = []
    for _ in range(steps):
        sgd.step()
        rates.append(sgd.param_groups[0]["scheduled_lr"])
    return rates


def accelerate_rates(part, lr, steps, processes, split_batches):
    """A scheduler of torch that accelerate steps, as in a training of so many processes."""
    module = peer("accelerate.scheduler")
    sgd = optimizer(lr)
    inner = getattr(torch.optim.lr_scheduler, part["type"])(sgd, **{k: v for k, v in part.items() if k != "type"})
    sgd.step_was_skipped = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AcceleratorState", lambda: SimpleNamespace(num_processes=processes))
        return stepped(module.AcceleratedScheduler(inner, sgd, split_batches=split_batches), sgd, steps)
