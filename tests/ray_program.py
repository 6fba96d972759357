"""A training function of Ray Train that calls the range test: what the first of two workers finds."""

import json
import sys

import ray
from ray.train import RunConfig, ScalingConfig, report
from ray.train.torch import TorchTrainer


def training():
    from torch import distributed as dist

    from tests.program_ranks import decided

    report({"found": json.dumps(decided("dense", "ddp")), "ranks": dist.get_world_size()})


if __name__ == "__main__":
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    trainer = TorchTrainer(
        training, scaling_config=ScalingConfig(num_workers=2), run_config=RunConfig(storage_path=sys.argv[1])
    )
    found = trainer.fit().metrics
    assert found["ranks"] == 2
    print(found["found"])
    ray.shutdown()
