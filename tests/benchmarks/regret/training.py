"""Training with a recommendation, in plain PyTorch that knows nothing of clrtool, and the oracle of our own problems."""

from __future__ import annotations

import json
import math
import sys
from statistics import mean
from typing import Any

import torch
from torch.nn import functional

from tests.benchmarks.regret.problems import HERE, OURS, problems

CYCLES = 2
# Powers of two of max_lr that each problem of our own is trained at.
GRID = {
    "digits-gru-adam": (-11, -1),
    "digits-transformer-adamw": (-13, -3),
    "digits-linear-sgd": (-8, 4),
    "table-mlp-sgd": (-6, 4),
    "table-mlp-rmsprop": (-13, -2),
    "table-mlp-adagrad": (-9, 2),
    "table-mlpbn-nesterov": (-9, 3),
    "waves-lstm-adam": (-11, 0),
}


def triangular2(iteration: int, base_lr: float, max_lr: float, stepsize: float) -> float:
    cycle = math.floor(1 + iteration / (2 * stepsize))
    x = abs(iteration / stepsize - 2 * cycle + 1)
    return base_lr + (max_lr - base_lr) * max(0.0, 1 - x) / 2 ** (cycle - 1)


def accuracy(name: str, base_lr: float, max_lr: float, seed: int) -> float:
    """Held-out accuracy after two cycles of triangular2 in the problem's epochs; chance if the loss is not finite."""
    problem: Any = problems()[name]
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x_train, y_train, x_val, y_val = problem.data()
    layout = torch.channels_last if problem.channels_last else torch.contiguous_format
    model = problem.model()
    model = model.to(memory_format=layout) if problem.channels_last else model
    optimizer = problem.optimizer(model.parameters(), base_lr)
    batches = len(x_train) // problem.batch_size
    stepsize = batches * problem.epochs / (2 * CYCLES)
    generator = torch.Generator().manual_seed(seed)
    iteration = 0
    for _ in range(problem.epochs):
        order = torch.randperm(len(x_train), generator=generator)
        for batch in order[: batches * problem.batch_size].split(problem.batch_size):
            for group in optimizer.param_groups:
                group["lr"] = triangular2(iteration, base_lr, max_lr, stepsize)
            x = x_train[batch]
            x = x.to(memory_format=layout) if problem.channels_last else x
            optimizer.zero_grad(set_to_none=True)
            loss = functional.cross_entropy(model(x), y_train[batch])
            loss.backward()
            optimizer.step()
            iteration += 1
        if not torch.isfinite(loss):
            return 1 / (int(y_val.max()) + 1)
    model.eval()
    with torch.no_grad():
        output = torch.cat([model(x) for x in x_val.split(500)])
    return float((output.argmax(1) == y_val).float().mean())


def make_oracle(name: str, seeds: int = 3, more: int = 5) -> dict[str, Any]:
    """Train every power of two, the best three with more seeds."""
    low, high = GRID[name]
    runs = {k: [accuracy(name, 2.0**k / 4, 2.0**k, seed) for seed in range(seeds)] for k in range(low, high + 1)}
    best = sorted(runs, key=lambda k: mean(runs[k]))[-3:]
    for k in best:
        runs[k] += [accuracy(name, 2.0**k / 4, 2.0**k, seed) for seed in range(seeds, more)]
    top = max(best, key=lambda k: mean(runs[k]))
    grid = [
        {"max_lr": 2.0**k, "accuracy": round(mean(runs[k]), 4), "runs": [round(x, 4) for x in runs[k]]} for k in runs
    ]
    return {"best_accuracy": round(mean(runs[top]), 4), "best_max_lr": 2.0**top, "grid": grid}


if __name__ == "__main__":
    (HERE / "oracle.json").write_text(
        json.dumps({name: make_oracle(name) for name in sys.argv[1:] or OURS}, indent=1) + "\n"
    )
