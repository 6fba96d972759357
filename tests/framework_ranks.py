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
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.data import DataLoader

from clrtool.engine.runtime.sharded import is_sharded
from clrtool.errors import ConfigError
from tests.program_ranks import dense, points
from tests.test_frameworks import QUICK, Module, Rates, Sentences, Two, arguments, bert, trainer

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


class Parallel(Module):
    """A module that brings its own plan, with ranks that read the same batches."""

    def configure_model(self):
        if not getattr(self, "is_parallel", False):
            apart = {"0": ColwiseParallel(), "2": RowwiseParallel()}
            parallelize_module(self.net, self.device_mesh["tensor_parallel"], apart)
            self.is_parallel = True


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


class Unlike(Module):
    """A module that logs what each rank has seen by itself, of which one improves all the time and the other never."""

    def validation_step(self, batch, batch_idx):
        accuracy = (self(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log("own", accuracy + self.current_epoch * (20 * self.global_rank - 10))


class Driving(Two):
    """A module that steps two optimizers itself, and shards what they step."""

    configure_model = Sharded.configure_model


def lightning_fit(folder, strategy, kind=Module, world=2, epochs=4, **options):
    import clrtool.lightning

    torch.manual_seed(SEED)
    callback, module = clrtool.lightning.LRRangeTest(**options or QUICK), kind()
    if strategy == "sharded":
        from lightning.pytorch.strategies import ModelParallelStrategy

        sizes = (1, world) if kind is Parallel else (world, 1)
        strategy = ModelParallelStrategy(data_parallel_size=sizes[0], tensor_parallel_size=sizes[1])
    mine = trainer(folder, callbacks=[callback], devices=world, strategy=strategy, max_epochs=epochs)
    mine.fit(module)
    plan, begun = callback.result.plan, callback.state_dict()["begun"]
    taken = (mine.global_step - begun) // len(mine.optimizers)
    # the last, for a module that is trained itself, in the range test too, notes those of that as well
    rates = [each[0] if issubclass(kind, Two) else each for each in module.rates[-taken:]]
    weights = [each.full_tensor() if hasattr(each, "full_tensor") else each for each in module.parameters()]
    return told(callback.result) | {
        "follows": rates == plan.lr(range(len(rates))).tolist(),
        "steps": [begun, mine.global_step],
        "weights": [each.detach().tolist() for each in weights],
        "logs": "train_loss" in mine.logged_metrics,
    }


def on_a_cpu():
    """Let accelerate make the FSDP of a plugin on a CPU too, where it passes over it: nothing else is replaced."""
    from accelerate.state import AcceleratorState, DistributedType

    begin = AcceleratorState.__init__

    def init(self, *args, fsdp_plugin=None, **options):
        begin(self, *args, fsdp_plugin=fsdp_plugin, **options)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    AcceleratorState.__init__ = init


def transformers_fsdp(folder):
    import transformers

    import clrtool.transformers

    on_a_cpu()
    rates, options = Rates(), QUICK | {"start_lr": 1e-4, "sweep_epochs": 4}

    torch.manual_seed(SEED)
    how = {"version": 2, "transformer_layer_cls_to_wrap": "BertLayer"}
    mine = transformers.Trainer(
        bert(), arguments(folder, per_device_train_batch_size=20, fsdp=True, fsdp_config=how), callbacks=[rates],
        train_dataset=Sentences(400, 0), eval_dataset=Sentences(100, 1),
    )  # fmt: skip
    said = []
    for version in (1, 2):  # with the older one accelerate begins on no CPU
        mine.accelerator.state.fsdp_plugin.fsdp_version = version
        said.append(said_of(lambda: clrtool.transformers.range_test(mine, **options)))
    mine.add_callback(test := clrtool.transformers.LRRangeTest(mine, at_epoch=0, **options))
    mine.train()
    follows = rates.rates == [float(lr) for lr in test.result.plan.lr(range(len(rates.rates)))]
    more = {"follows": follows, "steps": mine.state.global_step, "said": said, "sharded": is_sharded(mine.model)}
    return told(test.result) | more


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


def transformers_tensor(folder, world=2):
    """A language model of transformers, which brings its own plan; both ranks read the same batches."""
    import transformers

    import clrtool

    transformers.utils.logging.disable_progress_bar()
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    torch.manual_seed(SEED)
    config = transformers.LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    spread = {}
    if world > 1:
        from transformers.distributed.configuration_utils import DistributedConfig

        dist.init_process_group("gloo")
        spread = {"distributed_config": DistributedConfig(tp_size=world)}
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, **spread)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    train, heldout = (DataLoader(Sentences(size, seed, "tokens"), 20) for size, seed in ((400, 0), (100, 1)))
    return told(clrtool.range_test(model, optimizer, train, heldout, **QUICK)) | {"sharded": is_sharded(model)}


def accelerate_prepares(folder):
    """What a script does that ``accelerate launch`` starts."""
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
    return told(found) | {"follows": rates == plan, "sharded": is_sharded(model)}


def accelerate_fsdp(folder):
    on_a_cpu()
    return accelerate_prepares(folder)


def said_of(call):
    try:
        call()
    except ConfigError as error:
        return str(error)
    return None


def before_fit(folder):
    import clrtool.lightning

    mine = trainer(folder, devices=2, strategy="ddp")
    return said_of(lambda: clrtool.lightning.range_test(mine, Module(), **QUICK))


def older_fsdp(folder):
    """A fit by FSDPStrategy, which Lightning keeps from CPUs, but not what is derived from it."""
    from lightning.pytorch.strategies import FSDPStrategy

    class OnCpu(FSDPStrategy):
        def _setup_model(self, model):
            return FullyShardedDataParallel(model, device_id=torch.device("cpu"), **self.kwargs)

    return said_of(lambda: lightning_fit(folder, OnCpu(process_group_backend="gloo")))


LATER = {"epochs": 6, "progress": False}
CALLS = {
    "lightning before": before_fit,
    "lightning ddp": lambda folder: lightning_fit(folder, "ddp"),
    "lightning sharded": lambda folder: lightning_fit(folder, "sharded", Sharded),
    "lightning parallel": lambda folder: lightning_fit(folder, "sharded", Parallel),
    "lightning manual": lambda folder: lightning_fit(folder, "ddp", Two),
    "lightning manual sharded": lambda folder: lightning_fit(folder, "sharded", Driving),
    "lightning epoch": lambda folder: lightning_fit(folder, "ddp", monitor="val_acc", at_epoch=2, **LATER),
    "lightning plateau": lambda folder: lightning_fit(
        folder, "ddp", Unlike, monitor="own", when="plateau", patience=0, threshold=0.9, **LATER
    ),
    "lightning fsdp": older_fsdp,
    "transformers": transformers_train,
    "transformers fsdp": transformers_fsdp,
    "transformers tensor": transformers_tensor,
    "accelerate": accelerate_prepares,
    "accelerate fsdp": accelerate_fsdp,
}


def main(calls):
    found = {}
    for call in calls:
        with tempfile.TemporaryDirectory() as folder:
            found[call] = CALLS[call](Path(folder))
    print("FOUND" + json.dumps(found))
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])
