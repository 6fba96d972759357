"""What clrtool recommends for training jobs: picks for ``score``, and what each cost.

    python -m tests.benchmarks.workloads.recommend PICKS.json [--budget 0.25] [--seeds 5] [--jobs FILE.py] [--names NAME ...]

``--jobs`` names another file with a dict ``WORKLOADS`` of the same kind. Picks of a job that is in the file already are
kept, so that a run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

import clrtool
from tests.benchmarks.workloads import jobs


def load(path: Path | None) -> ModuleType:
    """The module of the jobs: that of this project, or a file."""
    if path is None:
        return jobs
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def recommend(job: Any, seed: int, **options: Any) -> dict[str, Any]:
    """Bounds of one range test of a job, verdict and cost."""
    x, y, x_held, y_held = job.data()
    train = DataLoader(TensorDataset(x, y), job.batch_size, shuffle=True, drop_last=True)
    step, measure = getattr(job, "step", None), getattr(job, "measure", None)
    held = DataLoader(TensorDataset(x_held, y_held), job.batch_size if step else 500)
    if measure:
        options |= {"measure": measure, "metric": "reward", "higher_is_better": True}
    found = clrtool.range_test(
        job.model, lambda model: job.optimizer(model, 1e-3), train, held, loss=job.loss, step=step, epochs=job.epochs,
        seed=seed, clip_norm=job.clip, progress=False, policy="triangular2", stepsize_epochs=job.epochs / 4, **options,
    )  # fmt: skip
    record = found.record
    return {
        "base_lr": found.base_lr,
        "max_lr": found.max_lr,
        "interval": found.bounds.max_lr_interval,
        "verdict": found.verdict.word,
        "advice": [each.name for each in found.bounds.advice],
        "iterations": record.iterations,
        "share": record.iterations / (len(train) * job.epochs),
        "evaluation_share": record.sweep.evaluation_share,
        "seconds": record.sweep.seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picks", type=Path)
    parser.add_argument("--budget", type=float, default=0.25)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=Path)
    parser.add_argument("--names", nargs="*")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    known = load(asked.jobs).WORKLOADS
    picks = json.loads(asked.picks.read_text()) if asked.picks.exists() else {}
    for name in asked.names or known:
        if name in picks:
            continue
        picks[name] = [recommend(known[name], 10 + seed, budget=asked.budget) for seed in range(asked.seeds)]
        asked.picks.write_text(json.dumps(picks, indent=1))
        print(name, [(each["max_lr"], each["verdict"], each["iterations"]) for each in picks[name]], flush=True)


if __name__ == "__main__":
    main()
