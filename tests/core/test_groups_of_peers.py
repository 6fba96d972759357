"""Lists of values for parameter groups: the schedule of each group, held against what a system sets in that group."""

import numpy as np
import pytest
import torch

from clrtool.core.planning.plan import plan_from
from tests.core.peers import peer

STEPS = 60


def groups(*rates):
    return [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]


def assert_groups(source, params, theirs, share=1e-9):
    """``theirs`` has a row for each iteration, in it a value for each group."""
    ours = [group.lr(range(len(theirs))) for group in plan_from(source, params, iterations=len(theirs)).groups]
    np.testing.assert_allclose(np.transpose(ours), theirs, rtol=share, atol=share * np.max(theirs))


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("WarmupLR", {"warmup_min_lr": [0.0, 0.1], "warmup_max_lr": [0.3, 0.2], "warmup_num_steps": 20}),
        ("WarmupDecayLR", {"warmup_min_lr": [0.0, 0.1], "warmup_max_lr": [0.3, 0.2], "warmup_num_steps": 20,
                           "total_num_steps": 50, "warmup_type": "linear"}),
        ("LRRangeTest", {"lr_range_test_min_lr": [0.1, 0.01, 0.5], "lr_range_test_step_size": 7,
                         "lr_range_test_step_rate": 0.5, "lr_range_test_staircase": True}),
    ],
)  # fmt: skip
def test_a_list_of_deepspeed_is_what_it_sets_in_each_group(name, params):
    schedules = peer("deepspeed.runtime.lr_schedules")
    adam = torch.optim.Adam(groups(*[1.0] * len(next(iter(params.values())))))
    scheduler, theirs = getattr(schedules, name)(adam, **params), []
    for _ in range(STEPS):
        theirs.append([float(group["lr"]) for group in adam.param_groups])
        scheduler.step()
    assert_groups(f"deepspeed:{name}", params, theirs)


@pytest.mark.parametrize(
    ("fit", "params"),
    [("fit_one_cycle", {"lr_max": [0.1, 0.02], "pct_start": 0.3}), ("fit_flat_cos", {"lr": [0.1, 0.02]})],
)
def test_a_list_of_fastai_is_what_it_sets_in_each_group(fit, params):
    learner, callback = peer("fastai.learner"), peer("fastai.callback.core")
    peer("fastai.callback.schedule")  # which gives the learner its methods
    theirs = []

    class Seen(callback.Callback):
        def before_step(self):
            theirs.append([float(each["lr"]) for each in self.opt.hypers])

    net = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
    batches = peer("fastai.data.core").DataLoaders(*[[(torch.zeros(1, 1),) * 2] * 20] * 2)
    learn = learner.Learner(batches, net, loss_func=torch.nn.functional.mse_loss, cbs=[Seen()],
                            splitter=lambda model: [list(part.parameters()) for part in model])  # fmt: skip
    with learn.no_bar(), learn.no_logging():
        getattr(learn, fit)(3, **params)
    assert len(theirs) == STEPS
    assert_groups(f"fastai:{fit}", params | {"n_epoch": 3, "n_iter": 20}, theirs, share=5e-6)
