"""The learning rates that other systems give, each asked in its own way: the second source of truth."""

import os
import warnings

import numpy as np
import torch

os.environ.setdefault("KERAS_BACKEND", "torch")


def torch_rates(name, params, steps, lr=1.0, **optimizer):
    """Learning rates and momenta of a scheduler of torch that is stepped, as long as it lets itself be stepped."""
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, **({"momentum": 0.9} | optimizer))
    scheduler = getattr(torch.optim.lr_scheduler, name)(sgd, **params)
    rates, momenta = [], []
    for step in range(steps):
        rates.append(float(sgd.param_groups[0]["lr"]))
        momenta.append(float(sgd.param_groups[0]["momentum"]))
        sgd.step()
        if step < steps - 1:
            scheduler.step()
    return rates, momenta


def group_rates(name, params, lrs, steps):
    """Learning rates and momenta, (steps, groups) each, of a scheduler of torch over groups made with ``lrs``."""
    sgd = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs], momentum=0.9)
    scheduler = getattr(torch.optim.lr_scheduler, name)(sgd, **params)
    return stepped_groups(scheduler, sgd, steps)


def stepped_groups(scheduler, sgd, steps):
    """Learning rates and momenta, (steps, groups) each, as a scheduler leaves them."""
    rates, momenta = [], []
    for step in range(steps):
        rates.append([float(group["lr"]) for group in sgd.param_groups])
        momenta.append([float(group["momentum"]) for group in sgd.param_groups])
        sgd.step()
        if step < steps - 1:
            scheduler.step()
    return np.array(rates), np.array(momenta)


def keras_rates(name, params, steps):
    """Keras computes in float32 unless it is told otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import keras
    keras.config.set_floatx("float64")
    try:
        schedule = getattr(keras.optimizers.schedules, name)(**params)
        return [float(schedule(torch.tensor(step, dtype=torch.float64))) for step in steps]
    finally:
        keras.config.set_floatx("float32")


def optax_rates(name, params, steps):
    """jax computes in float32 unless it is told otherwise."""
    import jax
    import optax

    with jax.enable_x64(True):
        schedule = getattr(optax, name)(**params)
        return np.array([float(schedule(jax.numpy.asarray(step))) for step in steps])


def optax_joined(schedules, boundaries, steps):
    import jax
    import optax

    with jax.enable_x64(True):
        parts = [getattr(optax, part["type"])(**{k: v for k, v in part.items() if k != "type"}) for part in schedules]
        joined = optax.join_schedules(parts, boundaries)
        return np.array([float(joined(jax.numpy.asarray(step))) for step in steps])


def transformers_rates(name, params, lr, steps):
    from transformers import get_scheduler

    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    special = {
        word: value
        for word, value in params.items()
        if not word.startswith("num_") or word in ("num_cycles", "num_decay_steps", "num_stable_steps")
    }
    general = {word: value for word, value in params.items() if word not in special}
    scheduler = get_scheduler(name, sgd, **general, scheduler_specific_kwargs=special)
    rates = []
    for _ in range(steps):
        rates.append(float(sgd.param_groups[0]["lr"]))
        sgd.step()
        scheduler.step()
    return rates
