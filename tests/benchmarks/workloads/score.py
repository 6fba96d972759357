"""Train with recommended bounds and say what share of the achievable gain they lose.

    python -m tests.benchmarks.workloads.score PICKS.json [--seeds 2] [--names NAME ...] [--schedules SCHEDULE ...]

PICKS.json maps a workload to a list of {"base_lr": float, "max_lr": float}, one for each repetition of the tool (other
seeds). With s the held-out score of a schedule at a pick, s* that of the same schedule at the best max_lr = 2^k
(oracle.json) and c what the best constant answer scores, loss = 100 (s* - s) / (s* - c), in per cent of the gain,
nothing below 0 and at most 100.

triangular2: two cycles of base_lr to max_lr. one_cycle: from max_lr / 25 up in 30 % of the iterations and down to 0, by
cosines. cosine: 5 % of linear warm-up to max_lr, then a cosine to 0. The last two use max_lr alone. The oracle's
triangular2 has base_lr = max_lr / 4.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch

from tests.benchmarks.workloads.jobs import WORKLOADS, Workload, constant

ORACLE = Path(__file__).resolve().with_name("oracle.json")
READINGS = 2  # of a step, which may draw random numbers
SCHEDULES = ("triangular2", "one_cycle", "cosine")


def lr_at(schedule: str, t: int, total: int, base: float, top: float) -> float:
    """The learning rate of iteration ``t`` of ``total``."""
    if schedule == "triangular2":
        step = total / 4
        cycle = math.floor(1 + t / (2 * step))
        return base + (top - base) * max(0.0, 1 - abs(t / step - 2 * cycle + 1)) / 2 ** (cycle - 1)
    rise = (0.3 if schedule == "one_cycle" else 0.05) * total
    low = top / 25 if schedule == "one_cycle" else 0.0
    if t < rise:
        part = 0.5 - 0.5 * math.cos(math.pi * t / rise) if schedule == "one_cycle" else (t + 1) / (rise + 1)
        return low + (top - low) * part
    return top * (0.5 + 0.5 * math.cos(math.pi * (t - rise) / (total - rise)))


def train(w: Workload, schedule: str, base: float, top: float, seed: int) -> float:
    """The held-out score after the workload's epochs; what a constant scores where the loss is not finite."""
    x, y, x_val, y_val = w.data()
    torch.manual_seed(seed)
    model = w.model()
    optimizer, order = w.optimizer(model, base), torch.Generator().manual_seed(seed)
    ratios = [group["lr"] / base for group in optimizer.param_groups]
    n, t = len(x) // w.batch_size, 0
    for _ in range(w.epochs):
        for rows in torch.randperm(len(x), generator=order)[: n * w.batch_size].split(w.batch_size):
            for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
                group["lr"] = ratio * lr_at(schedule, t, n * w.epochs, base, top)
            optimizer.zero_grad(set_to_none=True)
            loss = w.step(model, (x[rows], y[rows])) if w.step else w.loss(model(x[rows]), y[rows])
            if not torch.isfinite(loss):
                return constant(w)
            loss.backward()
            if w.clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), w.clip)
            optimizer.step()
            t += 1
    return _held_out(w, model, x_val, y_val)


@torch.no_grad()
def _held_out(w: Workload, model: torch.nn.Module, x_val: torch.Tensor, y_val: torch.Tensor) -> float:
    model.eval()
    if w.step:
        return _by_step(w, model, x_val, y_val)
    outputs = torch.cat([model(part) for part in x_val.split(500)])
    value = float((outputs.argmax(1) == y_val).float().mean()) if w.accuracy else float(w.loss(outputs, y_val))
    return value if math.isfinite(value) else constant(w)


def _by_step(w: Workload, model: torch.nn.Module, x_val: torch.Tensor, y_val: torch.Tensor) -> float:
    """The mean of so many readings, whose random numbers are the same for every model."""
    total, number = 0.0, 0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for batch in READINGS * list(zip(x_val.split(w.batch_size), y_val.split(w.batch_size), strict=True)):
            size = len(batch[0])
            value, size = w.measure(model, batch) if w.measure else (w.step(model, batch) * size, size)
            total, number = total + float(value), number + size
    return total / number if math.isfinite(total) else constant(w)


def lost(w: Workload, value: float, best: float) -> float:
    """Per cent of the gain over the best constant answer that is lost against the best; all, where that has no gain."""
    gain = best - constant(w)
    return min(100.0, max(0.0, 100 * (best - value) / gain)) if gain else 100.0


def score(
    name: str, schedule: str, picks: list[dict[str, float]], oracle: dict[str, dict[str, dict[str, float]]], seeds: int
) -> float:
    """The mean loss of a workload's picks in a schedule; a workload without a pick has lost everything."""
    w, best = WORKLOADS[name], oracle[name][schedule]["best"]
    values = [[train(w, schedule, p["base_lr"], p["max_lr"], seed) for seed in range(seeds)] for p in picks]
    each = [lost(w, sum(v) / len(v), best) for v in values] or [100.0]
    return sum(each) / len(each)


def main() -> None:
    """Print a line for each workload and one for each schedule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picks", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--names", nargs="*", default=list(WORKLOADS), choices=list(WORKLOADS), metavar="NAME")
    parser.add_argument("--schedules", nargs="*", default=list(SCHEDULES), choices=SCHEDULES)
    options = parser.parse_args()
    picks, oracle = json.loads(options.picks.read_text()), json.loads(ORACLE.read_text())
    columns: dict[str, list[float]] = {schedule: [] for schedule in options.schedules}
    for name in options.names:
        found = []
        for schedule in (each for each in options.schedules if each in oracle[name]):
            columns[schedule].append(score(name, schedule, picks.get(name, []), oracle, options.seeds))
            found.append(f"{schedule} {columns[schedule][-1]:5.1f} %")
        print(f"{name:28s}", "  ".join(found), flush=True)
    for schedule, column in columns.items():
        if column:
            print(f"{schedule}: mean {sum(column) / len(column):.1f} %, worst {max(column):.1f} %")


if __name__ == "__main__":
    main()
