"""Problems in float64 that two ranks train, and the program with which each of them does."""

import json
import os

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from clrtool.config.schema import RangeTestConfig
from clrtool.engine.configured.build import build_workload
from clrtool.engine.runtime.launched import join
from clrtool.engine.runtime.ranks import SINGLE_PROCESS
from clrtool.engine.runtime.sharded import is_sharded, whole
from clrtool.engine.training.losses import IGNORED
from clrtool.engine.training.trainer import Trainer
from clrtool.errors import ConfigError

LRS = [0.05, 0.1, 0.2, 0.1, 0.05] * 4


def values():
    """200 points of 3 classes, and 50 held out: not a multiple of the ranks' parts."""
    drawn = torch.Generator().manual_seed(0)
    inputs = torch.randn(251, 6, generator=drawn)
    targets = (inputs[:, :3] + 0.3 * torch.randn(251, 3, generator=drawn)).argmax(1)
    return (inputs[:200], targets[:200]), (inputs[200:], targets[200:])


def tokens():
    """80 texts of 5 tokens, of which those in even places count most: one rank has more than the other."""
    drawn = torch.Generator().manual_seed(1)
    inputs = torch.randint(0, 7, (100, 5), generator=drawn)
    targets = inputs.flip(1).clone()
    targets[torch.rand(100, 5, generator=drawn) < torch.linspace(0, 0.9, 100)[:, None]] = IGNORED
    return (inputs[:80], targets[:80]), (inputs[80:], targets[80:])


class Double(nn.Module):
    def forward(self, inputs):
        return inputs.double()


def dense():
    return nn.Sequential(Double(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def reader():
    return nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 7)).double()


def apart():
    """A model that is spread over ranks by its own plan."""
    return parallelize_module(dense(), init_device_mesh("cpu", (2,)), {"1": ColwiseParallel(), "3": RowwiseParallel()})


def refused(call):
    try:
        call()
    except ConfigError as error:
        return str(error)
    return None


def weighted():
    """A loss whose classes weigh unequally, so that one rank's samples weigh more than another's."""
    return nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2], dtype=torch.float64))


class Lame(nn.Module):
    """A model with a layer that is never used, and dropout."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(6, 3).double(), nn.Linear(6, 3).double()

    def forward(self, inputs):
        return nn.functional.dropout(self.used(inputs.double()), 0.2, self.training)


def build(data, model, ranks=SINGLE_PROCESS, micro_batches=1, loss=None, shard="none"):
    name = "tests.engine.rank_factories:"
    config = RangeTestConfig.model_validate(
        {
            "model": {"factory": f"{name}{model}"},
            "data": {"factory": f"{name}{data}", "batch_size": 20},
            "loss": {"factory": f"{name}{loss}"} if loss else "cross_entropy",
            "metric": "token_accuracy" if data == "tokens" else "accuracy",
            "training": {"micro_batches": micro_batches, "clip_norm": 1.0, "shard": shard},
        }
    )
    return build_workload(config, device="cpu", allow_import=[f"{name}*"], ranks=ranks)


def trained(workload):
    """Losses, weights and evaluation after some steps."""
    with workload.on_device():
        trainer = Trainer(workload, 3)
        losses = trainer.train(0, LRS)
        weights = [whole(each.detach()).tolist() for each in trainer.model.parameters()]
        return {"losses": losses, "weights": weights, "found": trainer.evaluate(), "spread": is_sharded(trainer.model)}


def main(rank):
    ranks = join(rank, 2, rank)
    both = {name: trained(build(*name.split(), ranks)) for name in ("values dense", "tokens reader")}
    both["weighted"] = trained(build("values", "dense", ranks, loss="weighted"))
    both["spread"] = trained(build("values", "dense", ranks, micro_batches=3, shard="auto"))
    both["spread tokens"] = trained(build("tokens", "reader", ranks, shard="auto"))
    both["parts"] = trained(build("values", "dense", ranks, micro_batches=3))
    lame = build("values", "Lame", ranks)
    states = ranks.all_gather({"rank": rank, "pair": (rank, [0.5 * rank])})
    facts = {
        "lame": trained(lame)["losses"],
        "matters": [lame.ranks.matters, build("values", "dense", ranks).ranks.matters],
        "states": states,
        "own": ranks.of_this_rank(states),
        "first": ranks.broadcast({"of": torch.tensor(rank)} if rank == 0 else None)["of"].item(),
        "any": [ranks.any(rank == 1), ranks.any(False)],
        "highest": [ranks.max(15 if rank else None), ranks.max(None)],
        "apart": [refused(lambda how=how: build("values", "apart", ranks, shard=how)) for how in ("none", "auto")],
        "differing": ranks.differing({"same": "a", "other": str(rank)}),
    }
    ranks.end()
    print(json.dumps(both | facts))


if __name__ == "__main__":
    main(int(os.environ["RANK"]))
