"""Trainers of Lightning and of transformers on several ranks: what each rank finds."""

import json
import os
import sys
import tempfile
from pathlib import Path

if "RANK" in os.environ:  # as torchrun says it
    os.environ |= {"TORCHELASTIC_RUN_ID": "tests", "LOCAL_WORLD_SIZE": os.environ["WORLD_SIZE"], "GROUP_RANK": "0"}

import torch
from torch import distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

from tests.program_ranks import dense, points
from tests.test_frameworks import QUICK, Module, Rates, Sentences, arguments, bert, trainer

SEED = 5


class Sharded(Module):
    """A module that shards itself, as Lightning's ModelParallelStrategy asks for it."""

    def configure_model(self):
        if not getattr(self, "is_sharded", False):
            mesh = self.device_mesh["data_parallel"]
            for layer in (self.net[0], self.net[2]):
                fully_shard(layer, mesh=mesh)
            fully_shard(self.net, mesh=mesh)
            self.is_sharded = True


def told(found):
    record = found.record
    return {
        "bounds": [found.base_lr, found.max_lr],
        "per_epoch": record.sweep.iterations_per_epoch,
        "ranks": record.environment.get("ranks", 1),
        "heldout": record.sweep.heldout_samples,
        "metric": [each.metric.tolist() for each in found.curves],
        "warnings": record.sweep.warnings,
    }


def lightning_fit(folder, strategy, world=2):
    import clrtool.lightning

    torch.manual_seed(SEED)
    callback = clrtool.lightning.LRRangeTest(**QUICK)
    module = Sharded() if strategy == "sharded" else Module()
    if strategy == "sharded":
        from lightning.pytorch.strategies import ModelParallelStrategy

        strategy = ModelParallelStrategy(data_parallel_size=world, tensor_parallel_size=1)
    mine = trainer(folder, callbacks=[callback], devices=world, strategy=strategy)
    mine.fit(module)
    plan = callback.result.plan
    weights = [each.full_tensor() if hasattr(each, "full_tensor") else each for each in module.parameters()]
    return told(callback.result) | {
        "follows": module.rates == plan.lr(range(len(module.rates))).tolist(),
        "steps": mine.global_step,
        "weights": [each.detach().tolist() for each in weights],
        "logs": "train_loss" in mine.logged_metrics,
    }


def transformers_train(folder):
    import transformers

    import clrtool.transformers

    rates, world = Rates(), int(os.environ.get("WORLD_SIZE", "1"))
    torch.manual_seed(SEED)
    mine = transformers.Trainer(
        bert(), arguments(folder, per_device_train_batch_size=40 // world), callbacks=[rates],
        train_dataset=Sentences(400, 0), eval_dataset=Sentences(100, 1),
    )  # fmt: skip
    found = clrtool.transformers.range_test(mine, **QUICK | {"start_lr": 1e-4, "sweep_epochs": 4})
    clrtool.transformers.apply_plan(mine, found.plan)
    mine.train()
    follows = rates.rates == [float(lr) for lr in found.plan.lr(range(len(rates.rates)))]
    return told(found) | {"follows": follows, "steps": mine.state.global_step}


def accelerate_prepares(folder):
    """What a script does that ``accelerate launch`` starts; a CPU is given no FSDP, even where a plugin asks for it."""
    from accelerate import Accelerator
    from accelerate.utils import FullyShardedDataParallelPlugin

    import clrtool

    accelerator = Accelerator(cpu=True, fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=2))
    torch.manual_seed(SEED)
    model = dense()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    train, heldout = points()
    given = model, optimizer, DataLoader(train, 20, shuffle=True), DataLoader(heldout, 20)
    model, optimizer, *loaders = accelerator.prepare(*given)
    found = clrtool.range_test(model, optimizer, *loaders, epochs=40, progress=False)
    scheduler, rates = found.scheduler(optimizer), []
    for inputs, targets in loaders[0]:
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.zero_grad()
        accelerator.backward(torch.nn.functional.cross_entropy(model(inputs), targets))
        optimizer.step()
        scheduler.step()
    plan = [float(lr) for lr in found.plan.lr(range(len(rates)))]
    return told(found) | {"follows": rates == plan, "kind": str(accelerator.distributed_type)}


def before_fit(folder):
    import clrtool.lightning
    from clrtool.errors import ConfigError

    try:
        clrtool.lightning.range_test(trainer(folder, devices=2, strategy="ddp"), Module(), **QUICK)
    except ConfigError as error:
        return str(error)
    return None


CALLS = {
    "lightning ddp": lambda folder: lightning_fit(folder, "ddp"),
    "lightning sharded": lambda folder: lightning_fit(folder, "sharded"),
    "lightning before": before_fit,
    "transformers": transformers_train,
    "accelerate": accelerate_prepares,
}


def main(call):
    with tempfile.TemporaryDirectory() as folder:
        found = CALLS[call](Path(folder))
    print("FOUND" + json.dumps(found))
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
