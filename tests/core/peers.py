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
