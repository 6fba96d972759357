"""The learning rates of systems that not every machine has, each asked by its own classes; an absent one is skipped."""

import importlib
import os
import warnings

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
    schedulers = peer("timm.scheduler")
    sgd = optimizer(lr)
    scheduler = getattr(schedulers, name)(sgd, **params)
    rates = []
    for step in range(steps):
        rates.append(float(sgd.param_groups[0]["lr"]))
        scheduler.step(step + 1)
    return rates


def ignite_made(part, sgd):
    """A scheduler of ignite, or one of torch inside it, from a part as clrtool reads it."""
    handlers = peer("ignite.handlers")
    params = {name: value for name, value in part.items() if name != "type"}
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
    scheduler = ignite_made(part, sgd)
    rates = []
    for _ in range(steps):
        scheduler(None)
        rates.append(float(sgd.param_groups[0]["lr"]))
    return rates


def mmengine_rates(parts, lr, steps):
    schedulers = peer("mmengine.optim.scheduler")
    sgd = optimizer(lr)
    made = [
        getattr(schedulers, part["type"])(sgd, **{name: value for name, value in part.items() if name != "type"})
        for part in parts
    ]
    rates = []
    for _ in range(steps):
        rates.append(float(sgd.param_groups[0]["lr"]))
        sgd.step()
        for scheduler in made:
            scheduler.step()
    return rates


def composer_rates(name, params, lr, max_duration, batches_per_epoch, steps):
    """The factor of a scheduler of composer at each batch, from the clock that its trainer keeps."""
    scheduler = getattr(peer("composer.optim.scheduler"), name)(**params)
    time = peer("composer.core.time")
    state = type("State", (), {})()
    state.max_duration = time.Time.from_timestring(max_duration)
    state.dataloader_len = time.Time(batches_per_epoch, "ba")
    rates = []
    for batch in range(steps):
        state.timestamp = time.Timestamp(
            epoch=batch // batches_per_epoch, batch=batch, batch_in_epoch=batch % batches_per_epoch
        )
        rates.append(lr * scheduler(state))
    return rates
