"""The range test of a program: what it finds, what it takes, and that nothing of the program's is changed."""

import copy
import hashlib
import io
import multiprocessing
import random
import re
import signal
from collections import UserDict
from pathlib import Path
from unittest.mock import Mock

import matplotlib.figure
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

import clrtool
from clrtool.engine.inprocess import heldout as held_out
from clrtool.engine.rangetest.sweep import run_sweep
from clrtool.errors import ConfigError, MachineError
from tests.documents import snippet
from tests.engine.workloads import FORKS, digits

QUICK = {
    "start_lr": 1e-3,
    "end_lr": 1.0,
    "sweep_epochs": 2,
    "evaluations": 8,
    "seeds": 2,
    "epochs": 12,
    "progress": False,
}


def data(train=600, heldout=200):
    """Samples of the digits as a program has them, training and held-out."""
    workload = digits()
    samples = workload.loader.samples
    inputs, outside = (workload.loader.transform(part, None) for part in (samples.inputs, workload.heldout.inputs))
    return TensorDataset(inputs[:train], samples.targets[:train]), TensorDataset(
        outside[:heldout], workload.heldout.targets[:heldout]
    )


TRAIN, HELDOUT = data()


def net():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10)
    )


class Used:
    """What a program has in the middle of its training: everything has a state."""

    def __init__(self, **loading):
        torch.manual_seed(3)
        self.model = net()
        self.model[2].eval()  # as a program does that keeps the statistics
        groups = [{"params": self.model[1].parameters(), "lr": 0.02}, {"params": self.model[5].parameters()}]
        self.optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 5)
        self.generator = torch.Generator().manual_seed(5)
        weights = torch.ones(len(TRAIN), dtype=torch.double)
        sampler = WeightedRandomSampler(weights, len(TRAIN), generator=self.generator)
        self.train = DataLoader(TRAIN, 50, sampler=sampler, generator=torch.Generator().manual_seed(6), **loading)
        self.heldout = DataLoader(HELDOUT, 100, **loading)
        for inputs, targets in self.train:
            nn.functional.cross_entropy(self.model(inputs), targets).backward()
            self.optimizer.step()
            self.scheduler.step()

    def hash(self):
        """Of all that was passed and of what the process has: weights, gradients, modes, state, generators."""
        modes = [module.training for module in self.model.modules()]
        gradients = [parameter.grad for parameter in self.model.parameters()]
        places = [id(each) for each in (*self.model.parameters(), *gradients, *self.optimizer.state)]
        generators = [self.generator.get_state(), self.train.generator.get_state(), torch.get_rng_state()]
        plain = [
            modes,
            places,
            random.getstate(),
            vars(self.train).keys(),
            self.train._iterator is None,
            sorted(Path.cwd().iterdir()),
        ]
        plain += [
            torch.backends.cudnn.benchmark,
            torch.is_grad_enabled(),
            self.scheduler.state_dict(),
            np.random.get_state()[1].tobytes(),  # noqa: NPY002
            np.random.get_state()[2:],  # noqa: NPY002
        ]
        file = io.BytesIO()
        state = [
            self.model.state_dict(),
            gradients,
            self.optimizer.state_dict(),
            generators,
        ]
        torch.save(state, file)
        return hashlib.sha256(file.getvalue() + repr(plain).encode()).hexdigest()

    def test(self, **options):
        return clrtool.range_test(self.model, self.optimizer, self.train, self.heldout, **QUICK | options)


class After:
    """A loss that ends otherwise after some calls."""

    def __init__(self, calls, end):
        self.left, self.end = calls, end

    def __call__(self, outputs, targets):
        torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002, S311 (what draws in a loss)
        self.left -= 1
        loss = nn.functional.cross_entropy(outputs, targets)
        return self.end(loss) if self.left < 0 else loss


def fails(loss):
    raise ZeroDivisionError("mine")


def interrupted(loss):
    signal.raise_signal(signal.SIGINT)
    return loss


ENDS = {
    "its end": (After(10**9, None), None),
    "an exception": (After(25, fails), ZeroDivisionError),
    "ctrl-c": (After(25, interrupted), KeyboardInterrupt),
    "nan": (After(40, lambda loss: loss * torch.nan), None),
    "divergence": (After(40, lambda loss: loss * 1e6), None),
}


@pytest.mark.parametrize("end", ENDS)
def test_everything_that_was_passed_is_as_it_was_however_a_test_ends(end, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    # A shell without job control starts what it puts into the background with SIGINT ignored, and it stays so.
    before_it = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before_it))
    loss, error = copy.deepcopy(ENDS[end][0]), ENDS[end][1]
    used = Used()
    before = used.hash()
    if error is None:
        found = used.test(loss=loss, deterministic=True)
        assert {"nan": "not_finite", "divergence": "diverged"}.get(
            end, found.record.sweep.outcome.word
        ) == found.record.sweep.outcome.word
    else:
        with pytest.raises(error):
            used.test(loss=loss)
    assert used.hash() == before
    nn.functional.cross_entropy(used.model(TRAIN[:50][0]), TRAIN[:50][1])
    assert used.hash() != before, "the hash sees what a forward pass in training draws"


class Own(BaseException):
    """An exception of a program that is no error, as KeyboardInterrupt is none."""


DOORS = {
    "dry_run": lambda used, **more: clrtool.dry_run(used.model, used.optimizer, used.train, used.heldout, **more),
    "compare": lambda used, **more: clrtool.compare(
        used.model, used.optimizer, used.train, used.heldout, bounds=(0.01, 0.1), policies=["fixed", "cosine"],
        trainings=1, epochs=1, progress=False, **more),
    "vary": lambda used, **more: clrtool.vary(
        used.model, used.optimizer, used.train, used.heldout, values={"momentum": [0.5, 0.9]}, epochs=12, **more),
}  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), Own(), ArithmeticError("mine")])
@pytest.mark.parametrize("calls", [0, 12])
def test_a_program_gets_its_own_exception_through_every_door_and_everything_is_as_it_was(door, error, calls):
    used, count = Used(), iter(range(calls))
    before, handlers = used.hash(), [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    def step(model, batch):
        torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002, S311 (what draws in a step)
        if next(count, None) is None:
            raise error
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    with pytest.raises(type(error)) as got:
        DOORS[door](used, step=step, eval_loss="train")
    assert got.value is error
    assert used.hash() == before
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_that_wraps_another_leaves_that_as_it_was(workers):
    class Wrapped:
        def __init__(self, loader):
            self.loader = loader

        def __iter__(self):
            return iter(self.loader)

        def __len__(self):
            return len(self.loader)

    used = Used(**({"num_workers": workers, "persistent_workers": True} if workers else {}))
    before, children = used.hash(), multiprocessing.active_children()
    found = clrtool.range_test(used.model, used.optimizer, Wrapped(used.train), Wrapped(used.heldout), **QUICK)
    assert used.hash() == before
    assert multiprocessing.active_children() == children
    assert [*found.curves[0].train_loss] != [*found.curves[1].train_loss], "and seeds read it in other orders"


@pytest.mark.parametrize("error", [MemoryError("full"), torch.OutOfMemoryError("full")])
@pytest.mark.parametrize("door", [clrtool.range_test, clrtool.dry_run])
@pytest.mark.parametrize("calls", [0, 1])
def test_a_machine_without_memory_is_not_told_of_as_a_loss_that_does_not_fit(door, error, calls):
    used = Used()
    options = {name: each for name, each in QUICK.items() if name != "progress"}
    before = used.hash()

    def lacks(_):
        raise error

    with pytest.raises(type(error), match="full"):
        door(used.model, used.optimizer, used.train, used.heldout, loss=After(calls, lacks), **options)
    assert used.hash() == before


def test_a_step_that_reaches_for_the_models_outside_is_refused_and_leaves_no_gradient():
    used = Used()
    before = used.hash()
    with pytest.raises(ConfigError, match="the loss does not depend on the model that it is given"):
        used.test(
            step=lambda _, batch: nn.functional.cross_entropy(used.model[5](torch.ones(len(batch[0]), 32)), batch[1])
        )
    assert used.hash() == before


@FORKS
def test_the_result_does_not_depend_on_workers_or_on_whether_they_persist():
    found = []
    for loading in ({}, {"num_workers": 1, "persistent_workers": True}, {"num_workers": 1}):
        used = Used(**loading)
        before = used.hash()
        found.append(repr(used.test(sweep_epochs=1, seeds=1).curves[0].points()))
        assert used.hash() == before
        used.train._iterator = None  # and with it the program's own worker
    assert found[0] == found[1] == found[2]


def test_the_bounds_are_those_of_the_command_line_for_the_same_problem():
    workload = digits()
    config = clrtool.RangeTestConfig.model_validate(
        {"model": {"name": "mlp"}, "data": {"name": "digits"}, "sweep": {"start_lr": 1e-4, "end_lr": 10.0, "epochs": 4}}
    )
    sweep = run_sweep(workload, config.sweep)
    theirs = clrtool.find_bounds(sweep.curves, heldout_samples=sweep.heldout_samples, chance=sweep.chance)
    train, heldout = data(1500, 297)
    ours = clrtool.range_test(
        workload.make_model, lambda model: torch.optim.SGD(model.parameters(), 0.1, momentum=0.9),
        DataLoader(train, 50, shuffle=True), DataLoader(heldout, 297),
        start_lr=1e-4, end_lr=10.0, sweep_epochs=4, progress=False,
    )  # fmt: skip
    assert (ours.record.sweep.metric.name, len(ours.curves)) == ("accuracy", len(sweep.curves))
    assert 0.1 <= ours.record.sweep.chance <= 0.2
    for name in ("base_lr_interval", "max_lr_interval"):
        low, high = (
            function(getattr(each, name)[place] for each in (ours.bounds, theirs))
            for place, function in ((0, max), (1, min))
        )
        assert low < high, name


class Named(nn.Module):
    """A model as transformers has them: it takes names, and gives its own loss."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, pixels, labels=None):
        logits = self.net(pixels)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return UserDict(loss=loss, logits=logits)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, one, other):
        return self.net((one + other) / 2)


def batches(make):
    return [[make(*part[start : start + 50]) for start in range(0, 200, 50)] for part in (TRAIN, HELDOUT)]


def sgd(model):
    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)


@pytest.mark.parametrize(
    ("model", "make", "metric"),
    [
        (net, lambda inputs, targets: (inputs, targets), "accuracy"),
        (net, lambda inputs, targets: {"x": inputs, "label": targets}, "accuracy"),
        (Named, lambda inputs, targets: {"pixels": inputs, "labels": targets}, "accuracy"),
        (Pair, lambda inputs, targets: (inputs, inputs, targets), "accuracy"),
        (Pair, lambda inputs, targets: [[inputs, inputs], targets], "accuracy"),
    ],
)
def test_batches_of_every_kind_are_taken(model, make, metric):
    loss = nn.CrossEntropyLoss() if model is net else None
    train, heldout = batches(make)
    found = clrtool.range_test(model, sgd, train, heldout, loss=loss, **QUICK | {"sweep_epochs": 5})
    assert found.record.sweep.metric.name == metric
    assert found.record.sweep.heldout_samples == 200
    assert max(found.curves[0].metric) > 0.3
    assert found.curves[0].metric.tolist() != found.curves[1].metric.tolist(), "a list is read in another order"


def test_the_weights_that_are_given_are_the_start_of_every_seed_and_a_function_makes_others():
    used = Used()
    first = [curve.metric[0] for curve in used.test().curves]
    assert first[0] == first[1] > 0.3
    fresh = clrtool.range_test(net, sgd, used.train, used.heldout, **QUICK)
    assert len({curve.heldout_loss[0] for curve in fresh.curves}) == 2


def test_a_step_takes_any_batch_and_is_judged_by_the_loss_or_by_a_measure():
    train, heldout = batches(lambda inputs, targets: {"who": "mine", "pair": (inputs, targets.float()[:, None])})

    def step(model, batch):
        return nn.functional.mse_loss(model(batch["pair"][0]), batch["pair"][1])

    def measure(model, batch):
        error = (model(batch["pair"][0]) - batch["pair"][1]).abs()
        return error.sum(), error.numel()

    def make():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 1))

    options = QUICK | {"end_lr": 0.05, "step": step}
    by_loss = clrtool.range_test(make, sgd, train, heldout, **options)
    assert by_loss.record.sweep.metric == clrtool.core.reading.metric.LOSS
    assert by_loss.curves[0].metric.tolist() == by_loss.curves[0].heldout_loss.tolist()
    own = clrtool.range_test(
        make, sgd, train, heldout, measure=measure, metric="mae", higher_is_better=False, **options
    )
    assert (own.record.sweep.metric.name, own.record.sweep.metric.is_share) == ("mae", False)
    assert own.curves[0].metric.tolist() == own.curves[0].heldout_loss.tolist()
    both = clrtool.range_test(
        make, sgd, train, heldout, measure=measure, metric="mae", higher_is_better=False, eval_loss="eval", **options
    )
    assert both.curves[0].metric[0] ** 2 < both.curves[0].heldout_loss[0]


def test_a_step_may_use_the_memory_of_its_loss_again():
    def measured(*, again):
        kept = []

        def step(model, batch):
            inputs, targets = batch
            loss = nn.functional.cross_entropy(model(inputs), targets)
            for old in kept if again else ():
                old.data.fill_(99.0)
            kept[:] = [loss]
            return loss

        model, loader = net(), DataLoader(TRAIN, 64)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        return clrtool.range_test(model, optimizer, loader, DataLoader(HELDOUT, 100), step=step, **QUICK)

    torch.manual_seed(0)
    plain = measured(again=False)
    torch.manual_seed(0)
    reused = measured(again=True)
    for one, other in zip(plain.curves, reused.curves, strict=True):
        np.testing.assert_array_equal(one.train_loss, other.train_loss)


def test_a_mean_over_accumulated_batches_is_that_of_one_batch():
    train = [(TRAIN[start : start + 100]) for start in range(0, 200, 100)]
    halves = [tuple(part[place : place + 50] for part in batch) for batch in train for place in (0, 50)]
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()
    options = QUICK | {
        "seeds": 1,
        "step": lambda model, batch: nn.functional.cross_entropy(model(batch[0].double()), batch[1]),
    }
    # in one order both times, so that the batches are the same
    whole, parts = (
        clrtool.range_test(linear, sgd, InOrder(each), [HELDOUT[:100]], accumulate=number, **options)
        for each, number in ((train, 1), (halves, 2))
    )
    assert whole.record.sweep.iterations_per_epoch == parts.record.sweep.iterations_per_epoch == 2
    np.testing.assert_allclose(whole.curves[0].heldout_loss, parts.curves[0].heldout_loss, rtol=1e-9)


class InOrder:
    """A loader of one's own, which counts its passes."""

    def __init__(self, items):
        self.items, self.passes = items, 0

    def __len__(self):
        return len(self.items)

    def __iter__(self):
        self.passes += 1
        return iter(self.items)


def test_a_loader_of_ones_own_is_not_changed_and_one_without_a_length_says_its_epoch():
    loader = InOrder(batches(lambda *pair: pair)[0])
    clrtool.range_test(net, sgd, loader, [HELDOUT[:100]], **QUICK)
    assert loader.passes == 0

    class Noisy(torch.utils.data.Dataset):
        def __init__(self):
            self.rng = np.random.default_rng(0)

        def __len__(self):
            return len(TRAIN)

        def __getitem__(self, place):
            return TRAIN[place][0] + float(self.rng.normal()), TRAIN[place][1]

    noisy = Noisy()
    clrtool.range_test(net, sgd, DataLoader(noisy, 50), [HELDOUT[:100]], **QUICK)
    assert noisy.rng.normal() == np.random.default_rng(0).normal()

    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            while True:
                yield TRAIN[random.randrange(len(TRAIN))]  # noqa: S311

    endless = DataLoader(Endless(), 50)
    with pytest.raises(ConfigError, match=r"has no length: give steps=N, .* or iterations_per_epoch=N"):
        clrtool.range_test(net, sgd, endless, [HELDOUT[:100]], **QUICK)
    found = clrtool.range_test(net, sgd, endless, [HELDOUT[:100]], iterations_per_epoch=10, **QUICK)
    assert found.record.sweep.iterations_per_epoch == found.plan.iterations_per_epoch == 10


def frozen():
    model = net()
    model.requires_grad_(False)
    return model


SHARED = net()
REFUSED = {
    "train_loader: is an iterator .*which can be read once.*give a DataLoader": {"train_loader": iter([1])},
    "heldout_loader: is an iterator": {"heldout_loader": zip([1], [2], strict=True)},
    "train_loader: must give batches": {"train_loader": 5},
    "train_loader: gave no batch": {"train_loader": []},
    "model: must be a torch.nn.Module, or a function": {"model": "resnet"},
    "model: has no parameter to train": {"model": frozen()},
    "a model that a function makes needs a function too": {"optimizer": sgd(SHARED)},
    "holds 6 parameters that are not the model's": {"model": net(), "optimizer": sgd(SHARED)},
    "optimizer: holds 6 parameters that": {"optimizer": lambda model: sgd(SHARED)},
    "model: the function must make a fresh model": {"model": lambda: SHARED},
    "heldout_loader: gave no batch": {"heldout_loader": []},
    "the lr of its first group must be above 0": {"optimizer": lambda model: torch.optim.SGD(model.parameters(), 0.0)},
    "optimizer: LBFGS scales its steps by the curvature": {"optimizer": lambda model: torch.optim.LBFGS(model.parameters())},
    r"optimizer: must be a torch.optim.Optimizer.*it gave list": {"optimizer": lambda model: []},
    r"end_lr = 0.001 must be at least 1.5 times": {"end_lr": 1e-3},
    r"sweep_epochs = 'many' must be a number or must be 'auto'": {"sweep_epochs": "many"},
    "metric: 'acuracy' is no metric; did you mean 'accuracy'": {"metric": "acuracy"},
    "metric: token_accuracy cannot be measured": {"metric": "token_accuracy"},
    "step gives the loss; leave out one": {"step": print, "loss": print},
    "a measure needs higher_is_better=True or False": {"measure": print, "metric": "f1"},
    "must give a loss of one number, the mean over the batch; it gave a tensor of shape": {"loss": nn.CrossEntropyLoss(reduction="none")},
    "loss: targets of torch.float32 are no class numbers": {"train_loader": [(torch.ones(9, 64), torch.ones(9, 1))]},
    "step: must give a loss of one number, .* it gave 1.5": {"step": lambda model, batch: 1.5},
    "accumulate = 0 must be a whole number": {"accumulate": 0},
    "unknown option 'sedes'; did you mean 'seeds'": {"sedes": 3},
    "plan: ": {"epochs": 0.01},
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_tested_is_refused_with_the_fix(message):
    given = {"model": net, "optimizer": sgd, "train_loader": [TRAIN[:50]], "heldout_loader": [HELDOUT[:50]]}
    with pytest.raises(ConfigError, match=message):
        clrtool.range_test(**given | QUICK | REFUSED[message])


def test_a_model_that_cannot_be_copied_is_refused_with_the_fix():
    model = net()
    model.seen = model(TRAIN[:50][0])
    with pytest.raises(ConfigError, match=r"model: cannot be copied .*give functions, model=lambda"):
        clrtool.range_test(model, sgd(model), [TRAIN[:50]], [HELDOUT[:50]], **QUICK)


def test_seeds_that_cannot_differ_are_told_of():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    found = clrtool.range_test(model, sgd(model), InOrder(batches(lambda *pair: pair)[0]), [HELDOUT[:100]], **QUICK)
    assert "agreement of seeds says nothing" in found.record.sweep.warnings[-1]


def test_a_result_is_shown_drawn_saved_and_followed(cli, tmp_path, monkeypatch):
    told = []
    model = net()
    options = QUICK | {"title": "<b>mine & yours</b>", "sweep_epochs": 6}
    found = clrtool.range_test(model, sgd(model), DataLoader(TRAIN, 50, shuffle=True), DataLoader(HELDOUT, 50),
                               on_point=lambda seed, point: told.append((seed, *point)), **options)  # fmt: skip
    assert len(told) == sum(len(curve.lr) for curve in found.curves)
    assert re.search(rf"base_lr +{found.base_lr:.3g}", str(found))
    assert repr(found) == f"RangeTest(base_lr={found.base_lr}, max_lr={found.max_lr}, verdict={found.verdict.word!r})"
    shown = found._repr_html_()
    assert "&lt;b&gt;mine &amp; yours&lt;/b&gt;" in shown
    assert "<b>" not in shown
    assert 'src="data:image/png;base64,iVBOR' in shown
    assert isinstance(found.plot(), matplotlib.figure.Figure)
    found.plot(tmp_path / "mine.svg")
    with monkeypatch.context() as full:  # when the curve, the result and the words of the picture are there
        full.setattr("clrtool.report.plots.style.drawn", Mock(side_effect=MachineError("no room")))
        with pytest.raises(MachineError, match="no room"):
            found.save(tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())
    with pytest.raises(MachineError, match=r"mine.svg: cannot be written"):
        found.save(tmp_path / "mine.svg")
    found.save(tmp_path / "run")
    assert clrtool.read_run(tmp_path / "run").bounds == found.bounds
    assert cli("plan", tmp_path / "run", "--format", "json").code == 0
    with pytest.raises(ConfigError, match=r"holds curve.csv, result.json"):
        found.save(tmp_path / "run")
    optimizer = sgd(model)
    found.scheduler(optimizer)
    assert optimizer.param_groups[0]["lr"] == found.plan.lr(0)


def test_the_code_of_the_readme_runs(capsys):
    torch.manual_seed(0)
    model = net()
    optimizer = sgd(model)
    names = {"model": model, "optimizer": optimizer, "train_loader": DataLoader(TRAIN, 50, shuffle=True)}
    names |= {"heldout_loader": DataLoader(HELDOUT, 100), "torch": torch}
    exec(snippet("print(test)"), names)  # noqa: S102 (it is our own)
    assert "base_lr" in capsys.readouterr().out
    assert optimizer.param_groups[0]["lr"] == names["test"].base_lr
    train, heldout = batches(lambda inputs, targets: {"pixels": inputs, "digit": targets})
    exec(snippet("def step"), names | {"train_loader": train, "heldout_loader": heldout})  # noqa: S102
    exec(snippet("find_bounds"), names)  # noqa: S102
    assert names["bounds"].max_lr is not None


@pytest.mark.parametrize(("room", "where"), [(20, "cuda"), (5, "host")])
def test_heldout_batches_are_brought_to_a_gpu_once_where_they_take_little_of_it(monkeypatch, room, where):
    moved = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (room * 4000, 10**9))
    monkeypatch.setattr(held_out, "to_device", lambda batch, device, fresh: moved.append((str(device), fresh)) or batch)
    batches = held_out.HeldoutBatches([(torch.zeros(250, 2), torch.zeros(250)) for _ in range(2)])
    batches.cache(torch.device("cuda"))
    assert len(list(batches)) == 2
    assert moved == ([("cuda", False)] * 2 if where == "cuda" else []), "copies, for a batch may be changed by a step"


@FORKS
def test_the_workers_of_a_test_end_with_it():
    used = Used()
    used.train, used.heldout = DataLoader(TRAIN, 50, num_workers=1), DataLoader(HELDOUT, 100, num_workers=1)
    with pytest.raises(ZeroDivisionError) as kept:
        used.test(loss=After(25, fails))
    assert kept.value.__traceback__ is not None
    assert multiprocessing.active_children() == []


@pytest.mark.gpu
@pytest.mark.parametrize("device", [None, "cuda"])
def test_on_a_gpu_its_generators_are_as_they_were_too(device):
    used = Used()
    if device is None:
        used.model.cuda()
        used.optimizer = sgd(used.model)
    torch.rand(3, device="cuda")
    before, states = used.hash(), torch.cuda.get_rng_state_all()
    found = used.test(device=device)
    assert found.record.environment["device"].startswith("cuda")
    assert used.hash() == before
    assert all(map(torch.equal, torch.cuda.get_rng_state_all(), states))


def test_there_is_no_plan_without_bounds_and_the_next_step_is_told():
    noise = [(torch.zeros(50, 64), torch.arange(50) % 10)]
    found = clrtool.range_test(lambda: nn.Sequential(nn.Linear(64, 10)), sgd, noise, noise, **QUICK)
    assert found.max_lr is None
    with pytest.raises(ConfigError, match="there are no bounds to plan with: Nothing was learned"):
        _ = found.plan


def test_the_bounds_of_numbers_are_those_of_their_curves(digits_run):
    curves = clrtool.read_run(digits_run).sweep.curves
    longest = max(curves, key=lambda curve: len(curve.lr))
    rows = np.full((len(curves), len(longest.lr)), np.nan)
    for row, curve in zip(rows, curves, strict=True):
        row[: len(curve.metric)] = curve.metric
    known = {"heldout_samples": 360}
    if all(len(curve.lr) == len(longest.lr) for curve in curves):
        theirs = clrtool.find_bounds(curves, **known)
        assert clrtool.find_bounds(longest.lr, rows, iterations=longest.iteration, **known) == theirs
    assert clrtool.find_bounds(longest.lr.tolist(), rows[0].tolist(), **known).max_lr is not None
    for lr, accuracy in (([1, 2], [0, 1]), ([1, 2, 3], [0, 1]), ([1, 2, 3], [0.1, 0.5, 50])):
        with pytest.raises(ValueError, match=r"a sweep needs at least 3|must be a share"):
            clrtool.find_bounds(lr, accuracy)
