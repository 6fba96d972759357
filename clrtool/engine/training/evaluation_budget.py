"""How often a sweep evaluates, and on how many samples, so that training keeps four fifths of the time.

The budget is counted and not timed, so that the same config gives the same evaluations on every machine. With f the
floating-point operations of one sample forward, a pass over b samples costs ``PASS + f * b``: what it takes to begin,
and the work. A training step over b samples costs ``1.5 PASS + 2 f b``, less than it was measured to cost.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from clrtool.config.schema import SweepConfig
from clrtool.core.planning.sweep_size import READINGS, SWEEP_POINTS
from clrtool.engine.data.nested import tensors_of
from clrtool.engine.data.tensors import Inputs
from clrtool.engine.models.forward import call_model

# Samples per forward pass of an evaluation, and numbers that they hold, at most. On a CPU larger passes fall out of
# the cache: 1,000 small images took a fifth longer.
EVALUATED = {"cpu": (500, 2**21), "cuda": (2500, 2**23)}
# Part of the time that evaluations may take.
SHARE = 0.2
# Forward, backward and update against a forward pass: 1.6 where it takes longer to begin than to work, and 2.2 to 6
# where it does not, were measured on a CPU. Less is counted, so that a fifth is kept.
BEGINNING, TRAINING = 1.5, 2.0
# Operations that one core does while a pass begins, 0.2 ms: what layers and losses take beside their arithmetic.
PASS = 1e7
# More evaluations than MOST show nothing new; fewer than LEAST leave no curve, so then the set is made smaller.
LEAST, MOST = 20, 60
SMALLEST_HELDOUT = 100


def evaluation_batch(inputs: Inputs, batch_size: int, device: str) -> int:
    """Samples per forward pass of an evaluation: few where they are large, but what fits in training fits here."""
    samples, numbers = EVALUATED[device]
    size = sum(tensor[0].numel() for tensor in tensors_of(inputs))
    return max(batch_size, min(samples, numbers // size))


def evaluation_budget(
    model: nn.Module, inputs: Inputs, sweep: SweepConfig, iterations: int, heldout: int, batch: int
) -> tuple[int, int]:
    """Evaluations of one sweep, and samples of each.

    Args:
        inputs: samples as the model takes them.
        iterations: of the sweep of one seed.
        heldout: samples that there are. Fewer are used only where ``LEAST`` evaluations of all would be too dear.
        batch: samples of an optimizer step.
    """
    if sweep.evaluations != "auto":
        return sweep.evaluations, heldout
    flops, at_once = flops_per_sample(model, inputs), evaluation_batch(inputs, batch, "cpu")
    return budget(flops, at_once, iterations, heldout, batch, races=sweep.races)


def budget(
    flops: float,
    at_once: int,
    iterations: int,
    heldout: int,
    batch: int,
    *,
    races: bool = False,
    least: int = SMALLEST_HELDOUT,
) -> tuple[int, int]:
    """The same for a model of ``flops`` a sample, evaluated on ``at_once`` samples at a time.

    Args:
        races: whether ``iterations`` are those of a race and its sweep, with as many evaluations as these take.
        least: samples that are never gone below.
    """
    if races:
        room = iterations * (BEGINNING * PASS + TRAINING * flops * batch) * SHARE / (1 - SHARE)
        while (SWEEP_POINTS + READINGS) * _cost(flops, heldout, at_once) > room and heldout > least:
            heldout = max(least, int(0.9 * heldout))
        return SWEEP_POINTS, heldout
    training = iterations * (BEGINNING * PASS + TRAINING * flops * batch)
    room = training * SHARE / (1 - SHARE)
    number = int(room / _cost(flops, heldout, at_once))
    while number < LEAST and heldout > least:
        heldout = max(least, int(0.9 * heldout))
        number = int(room / _cost(flops, heldout, at_once))
    return min(MOST, max(LEAST, number)), heldout


def _cost(flops: float, heldout: int, at_once: int) -> float:
    passes = -(-heldout // at_once)
    return passes * PASS + flops * heldout


def flops_per_sample(model: nn.Module, inputs: Inputs) -> float:
    """Floating-point operations of matrix products, convolutions and attention in one forward pass, a sample."""
    return flops_of(lambda: call_model(model, inputs)) / len(tensors_of(inputs)[0])


def flops_of(work: Callable[[], object]) -> float:
    """Floating-point operations of matrix products, convolutions and attention in a piece of work."""
    try:
        with torch.no_grad(), warnings.catch_warnings(), FlopCounterMode(display=False) as counter:
            warnings.filterwarnings("ignore", message=".*global hooks", category=UserWarning)  # the counter's own
            work()
    except AssertionError:  # the counter's own, of a module that returns a parameter: as if there was nothing to count
        return 0.0
    except RuntimeError:  # the counter's own, of gradients within the work; or the work's, which raises it again
        with torch.no_grad():
            work()
        return 0.0
    return float(counter.get_total_flops())
