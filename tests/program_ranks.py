"""A program that trains on several ranks, as people write them, and calls the range test: what each rank finds."""

import copy
import json
import math
import os
import signal
import sys
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

import clrtool
from clrtool.api.job import recipe_of
from clrtool.engine.rangetest.flat_run import PlainLoop
from clrtool.engine.runtime.sharded import is_sharded, shard_bytes, whole
from clrtool.engine.training.constant_head import constant_head_loss
from clrtool.engine.training.trainer import Trainer
from clrtool.errors import ConfigError, MachineError, exit_code
from tests.documents import snippet

LRS = [0.05, 0.1, 0.2, 0.1, 0.05] * 4
WHOLE = 40  # samples of a step, of all ranks together
# Of a mesh its sizes, the last of which is that of tensor parallelism.
MESHES = {"tensor": (2,), "tensor ddp": (2, 2), "tensor fsdp": (2, 2), "tensor hybrid fsdp": (2, 1, 2)}
# Of a number, by the name that it has in C++.
BYTES = {"double": 8, "float": 4, "long": 8, "unsigned char": 1}
QUICK = {"epochs": 40, "progress": False}
SWEEP = {"start_lr": 1e-4, "end_lr": 1.0, "sweep_epochs": 3, "evaluations": 8, "seeds": 1}


def points(number=480):
    """Points of 3 classes, some of them under a wrong name, and some held out."""
    drawn = torch.Generator().manual_seed(0)
    inputs = torch.randn(number + 120, 6, generator=drawn).double()
    targets = (inputs[:, :3] + 0.5 * torch.randn(number + 120, 3, generator=drawn)).argmax(1)
    return TensorDataset(inputs[:number], targets[:number]), TensorDataset(inputs[number:], targets[number:])


def texts(number=320):
    """Texts of 6 tokens, each to be told backwards."""
    inputs = torch.randint(0, 7, (number + 80, 6), generator=torch.Generator().manual_seed(1))
    return TensorDataset(inputs[:number], inputs[:number].flip(1)), TensorDataset(
        inputs[number:], inputs[number:].flip(1)
    )


class Reader(nn.Module):
    """A small transformer."""

    def __init__(self, width=16):
        super().__init__()
        self.embed, self.places = nn.Embedding(7, width), nn.Embedding(6, width)
        layer = {"dim_feedforward": 32, "dropout": 0.0, "batch_first": True, "norm_first": True}
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(width, 2, **layer) for _ in range(2))
        self.head = nn.Linear(width, 7)

    def forward(self, inputs):
        hidden = self.embed(inputs) + self.places.weight
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden)


def dense():
    return nn.Sequential(nn.Linear(6, 13), nn.Tanh(), nn.Linear(13, 13), nn.Tanh(), nn.Linear(13, 3)).double()


def norms():
    """A model of texts with norms, which sequence parallelism spreads as well."""
    inner = nn.LayerNorm(16), nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16), nn.LayerNorm(16)
    return nn.Sequential(nn.Embedding(7, 16), *inner, nn.Linear(16, 8)).double()


def token_loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def singles():
    """The points in float32."""
    return tuple(TensorDataset(inputs.float(), targets) for inputs, targets in (each.tensors for each in points()))


PROBLEMS = {
    "dense": (dense, points),
    "reader": (lambda: Reader().double(), texts),
    "single": (lambda: dense().float(), singles),
    "norms": (norms, texts),
}


def sharded(model, **options):
    """As a program does it: every block, and the rest."""
    for block in model.blocks if isinstance(model, Reader) else [each for each in model if isinstance(each, nn.Linear)]:
        fully_shard(block, **options)
    return fully_shard(model, **options)


def in_another_way(model, way):
    """A sharded model with what large ones are trained with."""
    if way == "root":
        return fully_shard(model)
    if way == "hybrid":  # sharded within a machine, and replicated over machines
        return sharded(model, mesh=init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("r", "s")))
    if way in MESHES:
        return tensor_parallel(model, mesh_of(way), shards="fsdp" in way)
    if way == "mixed":
        halves = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        return sharded(model.float(), mp_policy=halves)
    if way == "checkpointed":
        for place in (0, 2):
            model[place] = nn.Sequential(checkpoint_wrapper(model[place]))
            fully_shard(model[place])
    if way == "compiled":
        for block in model:
            block.compile(backend="aot_eager")
    return sharded(model)


def mesh_of(way):
    """A mesh of all ranks, whose last dimension is that of tensor parallelism."""
    *before, tensor = MESHES[way]
    names = ("replicas", "data")[-len(before) :] if before else ()
    return init_device_mesh("cpu", (*before, tensor), mesh_dim_names=(*names, "tensor"))


def tensor_parallel(model, mesh, *, shards):
    """A model that brings its own plan, alone or beside ``fully_shard``."""
    if isinstance(model, Reader):
        parallelize_module(model, mesh["tensor"], {
            "embed": RowwiseParallel(input_layouts=Replicate()), "blocks.*.linear1": ColwiseParallel(),
            "blocks.*.linear2": RowwiseParallel(), "head": ColwiseParallel(output_layouts=Replicate()),
        })  # fmt: skip
    elif len(model) == len(norms()):  # along the text too, and no rank has all of the outputs
        apart = {"input_layouts": Shard(1)}, {"output_layouts": Shard(1)}
        parallelize_module(model, mesh["tensor"], {
            "0": ColwiseParallel(**apart[1]), "1": SequenceParallel(), "2": ColwiseParallel(**apart[0]),
            "4": RowwiseParallel(**apart[1]), "5": SequenceParallel(),
            "6": ColwiseParallel(**apart[0], use_local_output=False),
        })  # fmt: skip
    else:
        apart = {"0": ColwiseParallel(output_layouts=Replicate()), "2": RowwiseParallel(input_layouts=Replicate())}
        parallelize_module(model, mesh["tensor"], apart)
    data = mesh.mesh_dim_names[:-1]
    return sharded(model, mesh=mesh[data if len(data) > 1 else data[0]]) if shards else model


def loaders(train, heldout, way="plain", accumulate=1):
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if way in MESHES:  # ranks of the last dimension share each batch
        rank, world = rank // MESHES[way][-1], world // MESHES[way][-1]
    sampler = DistributedSampler(train, world, rank, shuffle=True, drop_last=True)
    size = WHOLE // world // accumulate
    return DataLoader(train, size, sampler=sampler, drop_last=True), DataLoader(heldout, 25)


def made(name, way, accumulate=1):
    """Model, optimizer and loaders of a problem, on ranks in one of several ways."""
    torch.manual_seed(3)
    build, data = PROBLEMS[name]
    model = build()
    if way == "ddp":
        model = DistributedDataParallel(model)
    elif way == "fsdp":
        model = sharded(model)
    elif way != "plain":
        model = in_another_way(model, way)
    kind = {"lr": 1e-3} if name == "reader" else {"lr": 0.1, "momentum": 0.9}
    optimizer = (torch.optim.AdamW if name == "reader" else SGD)(model.parameters(), **kind)
    return model, optimizer, *loaders(*data(), way, accumulate)


def numbers(tensors):
    return [whole(each.detach()).tolist() for each in tensors]


def trained(name, way="plain", **options):
    """Losses, weights and evaluations of two runs in turn, and of the average of the first."""
    model, optimizer, *data = made(name, way, options.get("accumulate", 1))
    if name == "reader":
        options |= {"clip_norm": 0.1}
    with recipe_of(model, optimizer, *data, options) as (recipe, _):
        workload = recipe()
        with workload.on_device():
            start = Trainer(workload, 1)
            first, second = PlainLoop(start), PlainLoop(start)
            pause = lambda: False  # noqa: E731
            losses = [first.train(0, LRS[:8], pause), second.train(0, [0.01] * 8, pause), first.train(8, LRS, pause)]
            state = copy.deepcopy(first.state())
            average = first.read()
            third = start.branch()
            third.restore(state)
            again = third.train(len(LRS), [0.02] * 3)
            return {
                "losses": [*losses, again],
                "weights": numbers(third.model.parameters()),
                "constant": constant_head_loss(start) if name == "norms" else None,
                "found": [average, second.read(), start.evaluate()],
            }


def stepped(name, way="plain"):
    """The same with a loss of the program's own, of outputs of which each rank may have a part."""
    with nullcontext() if way == "plain" else loss_parallel():
        return trained(name, way, step=token_loss)


def alike(way, accumulate=1):
    """How far the weights after some steps are from those of the program's own loop on the same ranks."""
    model, optimizer, *data = made("dense", way)
    accumulate = int(accumulate)
    with recipe_of(model, optimizer, *data, {"accumulate": accumulate}) as (recipe, _):
        workload = recipe()
        with workload.on_device():
            trainer = Trainer(workload, 1)
            trainer.train(0, LRS)
            mine = [whole(each.detach()).clone() for each in trainer.model.parameters()]
        batches = workload.loader.batches(1, 0)
        start = [whole(each.detach()).clone() for each in model.parameters()]
        for lr, batch in zip(LRS, batches, strict=False):
            optimizer.param_groups[0]["lr"] = lr
            optimizer.zero_grad()
            for number, (inputs, targets) in enumerate(batch, 1):
                waits = way == "ddp" and number < accumulate  # a gradient of one rank's, until the last is there
                with model.no_sync() if waits else nullcontext():
                    (nn.functional.cross_entropy(model(inputs), targets) / accumulate).backward()
            optimizer.step()
    theirs = [whole(each.detach()) for each in model.parameters()]
    far = [max(float((one - two).abs().max()) for one, two in zip(mine, each, strict=True)) for each in (theirs, start)]
    return {"far": far[0], "moved": far[1], "type": str(theirs[0].dtype)}


def decided(name, way="plain", **options):
    """The bounds of a range test, and whether all is as it was."""
    model, optimizer, *data = made(name, way)
    before, modes, groups = numbers(model.parameters()), [each.training for each in model.modules()], open_groups()
    torch.manual_seed(11)
    found = clrtool.range_test(model, optimizer, *data, **QUICK | (SWEEP if name == "reader" else {}) | options)
    record = found.record
    return {
        "base_lr": found.base_lr,
        "max_lr": found.max_lr,
        "verdict": found.verdict.word,
        "environment": record.environment,
        "heldout": record.sweep.heldout_samples,
        "chance": record.sweep.chance,
        "constant": record.race and record.race.entry.constant,
        "warnings": record.sweep.warnings,
        "probes": [[each.lr, each.iterations, each.loss] for each in record.race.probes] if record.race else [],
        "metric": record.sweep.curves[0].metric.tolist(),
        "same": before == numbers(model.parameters()) and modes == [each.training for each in model.modules()],
        "draws": torch.rand(1).item(),
        "gradients": sum(each.grad is not None for each in model.parameters()),
        "sharded": is_sharded(model),
        "open": open_groups() - groups,
    }


def open_groups():
    return len(dist.distributed_c10d._world.pg_map) if dist.is_initialized() else 0


def estimated(name, way):
    """What a dry run tells, and whether the ranks still talk to each other afterwards."""
    found = clrtool.dry_run(*made(name, way), budget=0.25, epochs=40).estimate
    dist.barrier()
    costs = [asdict(each) for each in found.ranks]
    names = ("timed", "parameters", "held_bytes", "race", "iteration_seconds", "peak_bytes")
    return {name: getattr(found, name) for name in names} | {"ranks": costs, "profiled": profiled(name, way)}


def profiled(name, way):
    """Bytes that a step reduces and gathers, as the profiler of torch sees them come to gloo."""
    with recipe_of(*made(name, way), {}) as (recipe, _):
        workload = recipe()
        with workload.on_device():
            trainer = Trainer(workload, 1)
            trainer.train(0, [0.1])
            with torch.profiler.profile(record_shapes=True) as seen:
                trainer.train(1, [0.1])
    found = {"gloo:all_reduce": 0, "gloo:all_gather": 0}  # gloo scatters what it has reduced for all
    for each in seen.events():
        if each.name.startswith("gloo:"):
            found[each.name] += BYTES[each.input_dtypes[0]] * sum(math.prod(shape) for shape in each.input_shapes)
    return [found["gloo:all_reduce"], dist.get_world_size() * found["gloo:all_gather"]]


def kept(name, way):
    """Bytes of what a rank keeps of a trainer that has not the turn, of its average, and of the start; and of all."""
    model, optimizer, *data = made(name, way)
    with recipe_of(model, optimizer, *data, {}) as (recipe, _):
        workload = recipe()
        with workload.on_device():
            start = Trainer(workload, 1)
            run = PlainLoop(start)
            run.train(0, LRS[:3], lambda: False)
            states = run.state(), start.state()
            mine = [sum(shard_bytes(each["tensors"]) for each in states), shard_bytes(states[0]["optimizer"])]
            mine.append(shard_bytes(run.average.state()["weights"]))
    return {"mine": mine, "whole": sum(each.nbytes for each in model.parameters())}


def compared(name, way):
    """The winner of a comparison, and its metric at the end."""
    found = clrtool.compare(
        *made(name, way), bounds=(0.02, 0.2), policies=["one_cycle", 0.05], epochs=4, trainings=1, progress=False
    )
    return [found.best, found.finals]


def refused(name, way):
    """What is said to what several ranks or a sharded model do not allow."""
    model, optimizer, *data = made(name, way)
    given, said = (model, optimizer, *data), []
    flat = FullyShardedDataParallel(dense(), device_id=torch.device("cpu"))
    alone = init_device_mesh("cpu", (dist.get_world_size(), 1), mesh_dim_names=("others", "self"))["self"]
    for call in (
        lambda: clrtool.vary(*given, values={"momentum": [0.5, 0.9]}),
        lambda: clrtool.range_test(*given, jobs=2, **QUICK),
        lambda: clrtool.range_test(*given, precision="fp16", **QUICK),
        lambda: clrtool.range_test(*given, measure=MulticlassAccuracy(3), **QUICK),
        lambda: clrtool.range_test(*given, **QUICK | {"epochs": 10 + dist.get_rank()}),
        lambda: clrtool.range_test(*made("norms", "tensor"), step=token_loss, **QUICK),
        *(
            lambda spread=spread: clrtool.range_test(spread, lambda of: SGD(of.parameters(), 0.1), *data, **QUICK)
            for spread in (
                flat,
                DistributedDataParallel(dense(), device_mesh=alone),
                sharded(dense(), mesh=alone),
                made("dense", "tensor")[0],  # with loaders of which each rank reads batches of its own
                lambda: made("dense", "tensor")[0],
            )
        ),
    ):
        try:
            call()
        except ConfigError as error:
            said.append(str(error))
    return said


def failing(name, way):
    """What the ranks say of a range test in which the last one is killed, or raises an error, in the midst of it."""
    way, how = way.split()
    model, optimizer, *data = made(name, way)
    calls = 0

    def step(model, batch):
        nonlocal calls
        calls += 1
        if calls == 40 and dist.get_rank() == dist.get_world_size() - 1:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ArithmeticError("of its own")
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    try:
        clrtool.range_test(model, optimizer, *data, step=step, **QUICK)
    except (MachineError, ArithmeticError) as error:
        return [type(error).__name__, str(error), exit_code(error)]
    return None


def page():
    """The block of the guide, on a small model."""
    train, heldout = texts()
    torch.manual_seed(3)
    names = {"model": Reader(), "train_set": train, "heldout_set": heldout, "options": SWEEP | {"progress": False}}
    exec(snippet("fully_shard(block)").replace("epochs=10", "epochs=10, **options"), names)  # noqa: S102
    print(json.dumps([names["test"].base_lr, names["test"].max_lr, names["scheduler"].get_last_lr()]))
    dist.destroy_process_group()


def main(calls):
    dist.init_process_group("gloo")
    found = {}
    for call in calls:
        kind, *words = call.split(maxsplit=2)
        found[call] = {
            "trained": trained,
            "stepped": stepped,
            "accumulated": partial(trained, accumulate=2),
            "halves": partial(decided, precision="bf16"),
            "alike": alike,
            "estimated": estimated,
            "compared": compared,
            "kept": kept,
            "refused": refused,
            "decided": decided,
            "failing": failing,
        }[kind](*words)
        if kind == "failing":
            print(json.dumps(found), flush=True)
            os._exit(0)
        dist.barrier()
    print(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    if sys.argv[1:] == ["page"]:
        page()
    else:
        main(sys.argv[1:])
