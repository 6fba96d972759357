"""A loop for workers of Ray Train, and the same for ranks that nobody has prepared anything for: what each finds."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import clrtool
from clrtool.engine.runtime.sharded import local_tensors

SWEEP = {"epochs": 10, "seeds": 1, "start_lr": 1e-4, "end_lr": 1.0, "sweep_epochs": 2, "evaluations": 8}


def trained(folder, how, prepare_model, prepare_loader, begin=lambda *_: None):
    """Test on this rank, and leave in the folder what it has found."""
    torch.manual_seed(0)
    x = torch.randn(512, 16)
    data = TensorDataset(x, x[:, :4].argmax(1))
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    model = fully_shard(model) if how == "sharded" else prepare_model(model)
    loader = prepare_loader(DataLoader(data, 16, shuffle=True))
    optimizer = torch.optim.AdamW(model.parameters())
    before = {name: each.clone() for name, each in local_tensors(model).items()}
    test = clrtool.range_test(model, optimizer, loader, DataLoader(data, 64), on_point=begin, progress=False, **SWEEP)
    told = {
        "bounds": [test.base_lr, test.max_lr],
        "ranks": test.record.environment["ranks"],
        "metric": [each.metric.tolist() for each in test.curves],
        "as it was": all(torch.equal(each, before[name]) for name, each in local_tensors(model).items()),
        "warnings": test.record.sweep.warnings,
        "pass": getattr(loader.sampler, "epoch", None),
    }
    (Path(folder) / f"{how}-{dist.get_rank()}.json").write_text(json.dumps(told))


def worker(config):
    """What a worker of Ray Train does; the second is killed in the midst of the first test, where that is asked for."""
    import ray.train
    from ray.train.torch import prepare_data_loader, prepare_model

    killed = Path(config["folder"]) / "killed"

    def lose(*_):
        if config["lose"] and dist.get_rank() == 1 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    for how in config["how"]:
        trained(config["folder"], how, prepare_model, prepare_data_loader, lose)
        ray.train.report({"how": how})


def of_rank(loader):
    return DataLoader(loader.dataset, loader.batch_size, sampler=DistributedSampler(loader.dataset))


def main(folder, how, lose=""):
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
        for each in how.split(","):
            trained(folder, each, DistributedDataParallel, of_rank)
        dist.destroy_process_group()
        return
    import ray.train
    from ray.train.torch import TorchTrainer

    TorchTrainer(
        worker,
        train_loop_config={"folder": folder, "how": how.split(","), "lose": bool(lose)},
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        run_config=ray.train.RunConfig(
            storage_path=folder, failure_config=ray.train.FailureConfig(max_failures=int(bool(lose)))
        ),
    ).fit()


if __name__ == "__main__":
    main(*sys.argv[1:])
