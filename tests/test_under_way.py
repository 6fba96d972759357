"""A training under way: from where it stands, untouched, with stopping as the floor; from objects and from files."""

import contextlib
import copy
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import clrtool
from clrtool.cli.guide import FOLDER
from clrtool.core.racing.going_on import GoingOn, Start, WarmUp, continued, judge_warm_up
from clrtool.core.racing.probes import Entry, Probe
from clrtool.core.racing.result import Race
from clrtool.core.reading.verdict import Advice, Verdict
from clrtool.engine.models.checkpoint import read_checkpoint
from clrtool.engine.training.going_on import start_of
from clrtool.errors import ConfigError, MachineError
from clrtool.report.records.run import read_run
from clrtool.report.records.vary_file import VARIED
from clrtool.report.text.facts import begins_from
from tests.benchmarks.under_way import bytes_of
from tests.documents import snippet


def digits():
    from tests.test_api import data

    return data(900, 300)


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))


def trained(optimizer, epochs=4, lr=0.02):
    """A model and its optimizer after some epochs of digits."""
    torch.manual_seed(3)
    model = network()
    made = optimizer(model.parameters(), lr=lr)
    loader = DataLoader(digits()[0], batch_size=32, shuffle=True)
    for _ in range(epochs):
        for x, y in loader:
            made.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            made.step()
    return model, made


def loaders():
    train, heldout = digits()
    return DataLoader(train, batch_size=32, shuffle=True), DataLoader(heldout, batch_size=300)


def sgd(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


@pytest.fixture(scope="module", params=[sgd, torch.optim.AdamW])
def gone_on(request):
    """A test of a training under way, with what it was given and hashes of that before."""
    model, optimizer = trained(request.param, lr=0.02 if request.param is sgd else 1e-3)
    train, heldout = loaders()
    generator = train.generator = torch.Generator().manual_seed(5)
    before = bytes_of(model, optimizer), torch.get_rng_state(), generator.get_state()
    found = clrtool.range_test(model, optimizer, train, heldout, epochs=20, keep_state=True, progress=False)
    return found, model, optimizer, before, generator


def test_a_training_under_way_is_left_as_it_was_to_the_byte(gone_on):
    _, model, optimizer, (state, drawn, own), generator = gone_on
    assert bytes_of(model, optimizer) == state
    assert torch.equal(torch.get_rng_state(), drawn)
    assert torch.equal(generator.get_state(), own)


def test_the_loss_it_begins_from_is_that_of_the_model_as_it_is(gone_on):
    found, model, *_ = gone_on
    inputs, targets = next(iter(loaders()[1]))
    with torch.no_grad():
        loss = float(nn.functional.cross_entropy(copy.deepcopy(model).eval()(inputs), targets))
    assert found.record.going_on.loss == pytest.approx(loss, rel=1e-5)
    assert found.record.race.entry.first == found.record.going_on.loss


def test_what_it_says_stands_in_the_table_and_in_the_file(gone_on, tmp_path):
    found, *_ = gone_on
    text = str(found)
    assert "goes on" in text
    assert "with the optimizer's state" in text
    found.save(tmp_path / "run")
    assert read_run(tmp_path / "run").going_on == found.record.going_on


def test_what_it_cost_counts_the_runs_that_compare_beginnings(gone_on):
    record = gone_on[0].record
    compared = 0 if record.going_on.warm_up is None else record.going_on.warm_up.cost
    assert record.iterations == record.sweep.iterations + record.race.iterations + compared
    assert record.iterations <= max(500, 0.25 * 20 * record.sweep.iterations_per_epoch)


@pytest.mark.short(0)
def test_runs_that_are_short_beside_what_is_left_are_said_to_be_and_a_larger_budget_makes_them_longer():
    model, optimizer = trained(torch.optim.AdamW, lr=1e-3)
    for budget, is_short in ((0.25, True), (6, False)):
        found = clrtool.range_test(
            model, optimizer, *loaders(), epochs=8, budget=budget, keep_state=True, progress=False
        )
        assert (Advice.SHORT_RUNS in found.bounds.advice) is is_short


def test_momentum_and_second_moments_are_where_the_runs_begin():
    """The first step of a run is that of the optimizer with its state, and not that of a fresh one."""
    from clrtool.api.job import job_of
    from clrtool.engine.training.trainer import Trainer

    for kind in (sgd, torch.optim.AdamW):
        model, optimizer = trained(kind)
        with job_of(model, optimizer, *loaders(), {"keep_state": True, "epochs": 5}) as (workload, _):
            assert workload.start.optimizer_state > 0
            with workload.on_device():
                starts = [Trainer(workload, seed) for seed in (0, 1)]
        for start in starts:
            assert start.optimizer.state_dict()["state"].keys() == optimizer.state_dict()["state"].keys()
            for one, other in zip(start.optimizer.state.values(), optimizer.state.values(), strict=True):
                assert all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])) for key in other)


def test_functions_have_no_state_to_go_on_from_and_the_papers_method_no_floor():
    with pytest.raises(ConfigError, match="keep_state: goes on from the model and the optimizer themselves"):
        clrtool.range_test(network, lambda m: sgd(m.parameters(), 0.1), *loaders(), keep_state=True, progress=False)
    model, optimizer = trained(sgd, epochs=1)
    with pytest.raises(ConfigError, match="keep_state: compares rates with stopping"):
        clrtool.range_test(model, optimizer, *loaders(), keep_state=True, sweep_epochs=2, progress=False)


def test_a_training_that_only_gets_worse_is_told_to_stop():
    """Labels are noise on the training set, and the model is what its held-out set wants."""
    torch.manual_seed(0)
    x, held = torch.randn(640, 8), torch.randn(400, 8)
    weight = torch.randn(8, 4)
    model = nn.Linear(8, 4, bias=False)
    with torch.no_grad():
        model.weight.copy_(3 * weight.T)
    train = DataLoader(TensorDataset(x, torch.randint(0, 4, (640,))), batch_size=32, shuffle=True)
    heldout = DataLoader(TensorDataset(held, (held @ weight).argmax(1)), batch_size=400)
    optimizer = sgd(model.parameters(), 0.1)
    found = clrtool.range_test(model, optimizer, train, heldout, epochs=10, keep_state=True, progress=False)
    assert found.max_lr is None
    assert Advice.BETTER_STOPPED in found.bounds.advice
    assert "before going on it is" in found.bounds.max_reason


@pytest.mark.parametrize("kind", ["calm", "thrown", "broken"])
def test_a_warm_up_is_needed_where_going_at_once_does_lasting_harm(kind):
    generator = torch.Generator().manual_seed(0)
    calm = [(1 + 0.1 * torch.randn(40, generator=generator)).tolist() for _ in range(2)]
    once = {
        "calm": [[each + 0.001 for each in run] for run in calm],
        "thrown": [[each + 0.5 for each in run] for run in calm],
        "broken": [[*run[:15], math.inf] for run in calm],
    }[kind]
    found = judge_warm_up(20, once, calm)
    assert found.needed == (kind != "calm")
    assert GoingOn.from_dict(json.loads(json.dumps(GoingOn(Start("x", 1), 1.0, found).to_dict()))).warm_up == found


def test_a_rate_at_which_a_seed_ends_above_the_loss_that_was_there_is_not_recommended():
    from clrtool.core.racing.race import next_run

    entry = Entry(start=-5, budget=2000, seeds=2, training=1000, constant=2.3, first=0.5)
    probes = []
    while (run := next_run(entry, probes)) is not None:
        best = -5 if run.seed == 0 else -2  # seeds that disagree, and above their best a cliff
        loss = 0.45 + 0.01 * abs(run.power - best) if run.power <= best else 0.9
        probes.append(Probe(*run, run.iterations, loss, 0.5))
    found = continued(Race(entry, tuple(probes)))
    assert found.max_lr is not None
    for seed in (0, 1):
        longest = max(probe.iterations for probe in probes if probe.seed == seed)
        read = {probe.lr: probe.loss for probe in probes if (probe.seed, probe.iterations) == (seed, longest)}
        assert read.get(found.max_lr, 0.0) <= 0.5


@pytest.mark.parametrize(("moves", "left"), [(False, 600), (True, 600), (False, 4000)])
def test_a_best_rate_that_moves_as_the_runs_grow_longer_or_may_move_in_what_is_left_is_not_clear(moves, left):
    """A higher rate may throw a model back first, and pay later."""
    from clrtool.core.racing.race import next_run

    entry = Entry(start=-7, budget=2000, seeds=2, training=left, constant=2.3, first=0.5)
    probes = []
    while (run := next_run(entry, probes)) is not None:
        best = -7 if moves and run.seed == 0 and run.iterations < 200 else -6
        loss = 0.45 - run.iterations / 10_000 + 0.03 * abs(run.power - best)
        probes.append(Probe(*run, run.iterations, loss, 0.5))
    found = continued(Race(entry, tuple(probes)))
    assert found.max_lr == 2.0**-6
    is_short = max(probe.iterations for probe in probes) < left / 2
    assert is_short is (left == 4000)
    assert found.advice == ((Advice.LITTLE_LEARNED,) if moves else (Advice.SHORT_RUNS,) if is_short else ())
    assert ("makes the race about twice as long" in found.max_reason) is (moves or is_short)
    assert found.verdict is (Verdict.WEAK if moves or is_short else Verdict.CLEAR)


SMALL = "model={name: mlp, args: {hidden: [16]}}"


@pytest.fixture
def command(process, tmp_path):
    """The code and the words of the range test of the shipped config with these options."""

    def call(*words):
        done = process("rangetest", "digits", SMALL, "plan.epochs=20", "--device", "cpu", *words, cwd=tmp_path)
        return done.returncode, done.stdout + done.stderr

    return call


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A training of the shipped config, as torch saves it."""
    from clrtool.config.file import find_config, load_config
    from clrtool.engine.configured.build import build_workload
    from clrtool.engine.training.trainer import Trainer

    workload = build_workload(load_config(find_config("digits"), [SMALL]), device="cpu")
    with workload.on_device():
        trainer = Trainer(workload, 7)
        trainer.train(0, [0.05] * 3 * workload.iterations_per_epoch)
    folder = tmp_path_factory.mktemp("saved")
    model, optimizer = trainer.model.state_dict(), trainer.optimizer.state_dict()
    torch.save({"model": model, "optimizer": optimizer, "epoch": 3}, folder / "last.pt")
    torch.save(model, folder / "weights.pt")
    save_file(model, folder / "weights.safetensors")
    (folder / "checkpoint-132").mkdir()
    save_file(model, folder / "checkpoint-132/model.safetensors")
    torch.save(optimizer, folder / "checkpoint-132/optimizer.pt")
    (folder / "checkpoint-132/trainer_state.json").write_text(json.dumps({"epoch": 3.0, "global_step": 132}))
    lightning = {"state_dict": {f"net.{name}": value for name, value in model.items()}, "epoch": 2, "global_step": 132}
    torch.save(lightning | {"optimizer_states": [optimizer], "pytorch-lightning_version": "2.5"}, folder / "l.ckpt")
    return folder, trainer


@pytest.mark.parametrize(
    ("name", "epochs", "state"),
    [("last.pt", 3.0, 4), ("weights.pt", None, 0), ("weights.safetensors", None, 0), ("checkpoint-132", 3.0, 4),
     ("l.ckpt", 3.0, 4)],
)  # fmt: skip
def test_every_form_of_a_checkpoint_is_where_the_training_stands(saved, name, epochs, state):
    from clrtool.config.file import find_config, load_config
    from clrtool.engine.configured.build import build_workload
    from clrtool.engine.training.trainer import Trainer

    folder, trained_on = saved
    config = load_config(find_config("digits"), [SMALL, "plan.epochs=20", f"start={folder / name}"])
    workload = build_workload(config, device="cpu")
    assert workload.start == Start(str(folder / name), state, epochs, is_sure=name != "last.pt")
    assert workload.plan_epochs == pytest.approx(20 - (epochs or 0))
    with workload.on_device():
        for seed in (0, 1):
            start = Trainer(workload, seed)
            for key, value in trained_on.model.state_dict().items():
                assert torch.equal(start.model.state_dict()[key], value)
            if state:
                theirs = trained_on.optimizer.state_dict()["state"]
                for place, mine in start.optimizer.state_dict()["state"].items():
                    assert torch.equal(mine["momentum_buffer"], theirs[place]["momentum_buffer"])
    assert workload.sources["start"]


@pytest.mark.parametrize(
    ("held", "epochs", "is_sure"),
    [
        ({"epoch": 2, "scheduler": {"last_epoch": 3}}, 3.0, True),
        ({"epoch": 3, "scheduler": {"last_epoch": 3}}, 3.0, True),
        ({"epoch": 2, "lr_scheduler": {"last_epoch": 132}}, 3.0, True),
        ({"epoch": 2, "optimizer": "adam"}, 3.0, True),
        ({"epoch": 3, "optimizer": "adam"}, 3.0, True),
        ({"optimizer": "adam"}, 3.0, True),
        ({"epoch": 3}, 3.0, False),
        ({"epoch": 2, "scheduler": {"last_epoch": 500}}, 2.0, False),
        ({"epoch": 2, "scheduler": "none"}, 2.0, False),
        ({}, None, True),
    ],
)
def test_whether_an_epoch_counts_from_0_is_told_by_what_optimizer_and_scheduler_counted(
    tmp_path, held, epochs, is_sure
):
    """Three epochs of 44 iterations are done."""
    model = nn.Linear(4, 2)
    adam = torch.optim.Adam(model.parameters())
    for _ in range(3 * 44):
        adam.zero_grad()
        model(torch.ones(1, 4)).sum().backward()
        adam.step()
    if held.get("optimizer"):
        held = held | {"optimizer": adam.state_dict()}
    torch.save({"model": model.state_dict()} | held, tmp_path / "last.pt")
    start = start_of(read_checkpoint(tmp_path / "last.pt"), 44)
    assert (start.epochs, start.is_sure) == (epochs, is_sure)
    assert ("counts from 0" in begins_from(start)) != is_sure


def test_values_race_from_a_checkpoint_and_stopping_is_their_floor_too(command, saved, tmp_path):
    folder, _ = saved
    words = ["--from", str(folder / "last.pt"), "--vary", "optimizer.args.weight_decay=0,0.01", "-q"]
    code, told = command(*words, "-o", "out")
    record = VARIED.read(tmp_path / "out")
    assert record.start.epochs == 3.0
    assert f"The held-out loss there is {record.pilot.entry.first:.4g}" in " ".join(told.split())
    assert (code == 3) == (record.chosen is None)
    assert record.tried[0].training == 17 * 44
    floor = replace(record.pilot.entry, first=0.0001)
    stopped = replace(record, pilot=replace(record.pilot, entry=floor))
    if stopped.has_learned:
        assert (stopped.chosen, stopped.verdict.word) == (None, "better_stopped")


def test_the_command_goes_on_from_a_file_and_notices_another(command, saved, tmp_path):
    (tmp_path / "500").mkdir()
    assert "500 has no model.safetensors" in command("--from", "500", "-o", "other")[1]
    path = tmp_path / "last.pt"
    path.write_bytes((saved[0] / "last.pt").read_bytes())
    code, text = command("--from", "last.pt", "-o", "run", "--write", "kept.json")
    assert code == 0, text
    assert "last.pt after 3 epochs, with the optimizer's state" in " ".join(text.split())
    record = read_run(tmp_path / "run")
    assert record.going_on.start.epochs == 3
    if record.plan is not None:
        assert record.plan.epochs <= 17
    code, text = command("--from", "last.pt", "-o", "run")
    assert "already finished" in text
    held = torch.load(path, weights_only=True)
    torch.save(held | {"epoch": 4}, path)
    code, text = command("--from", "last.pt", "-o", "run")
    assert code == 2
    assert "start changed" in text
    code, text = command("--from", "last.pt", "-o", "run", "--check", "kept.json")
    assert code == 1
    assert "stale" in text


FAULTS = {
    "other shapes": (lambda held: held["model"].update({"1.weight": torch.zeros(3, 3)}), "as (3, 3), the model as"),
    "a name too many": (lambda held: held["model"].update(extra=torch.zeros(1)), "has extra, which the model lacks"),
    "a name too few": (lambda held: held["model"].pop("1.bias"), "has no 1.bias"),
    "another optimizer": (
        lambda held: held["optimizer"]["state"].update(
            {place: {"exp_avg": torch.zeros(1), "step": torch.tensor(1.0)} for place in range(4)}
        ),
        "SGD keeps momentum_buffer",
    ),
    "another shape in a state": (
        lambda held: held["optimizer"]["state"][0].update(momentum_buffer=torch.zeros(2)), "momentum_buffer of parameter 0",
    ),
    "more groups": (
        lambda held: held["optimizer"].update(
            param_groups=[{**held["optimizer"]["param_groups"][0], "params": each} for each in ([0, 1], [2, 3])]
        ),
        "2 groups of 2, 2 tensors",
    ),
    "no state of torch's": (lambda held: held.update(optimizer={"lr": 1}), "that torch did not write"),
    "a tensor for a state": (lambda held: held.update(optimizer=torch.zeros(3)), "that torch did not write"),
    "a list for a state": (lambda held: held["optimizer"].update(state=[1]), "that torch did not write"),
    "numbers for states": (lambda held: held["optimizer"].update(state={0: 1.0}), "that torch did not write"),
    "groups without numbers": (lambda held: held["optimizer"].update(param_groups=[{}]), "that torch did not write"),
    "groups of lists": (
        lambda held: held["optimizer"].update(param_groups=[{"params": [[], [], [], []]}]), "that torch did not write",
    ),
    "a state of none of its groups": (
        lambda held: held["optimizer"]["state"].update({9: {"momentum_buffer": torch.zeros(1)}}), "parameter 9",
    ),
    "two optimizers": (
        lambda held: held.update(optimizer=[held["optimizer"]] * 2), "the state of 2 optimizers, and the config has 1",
    ),
    "numbers that are not finite": (
        lambda held: held["optimizer"]["state"][0].update(momentum_buffer=torch.full((16, 64), math.nan)), "NaN",
    ),
    "a training that is over": (lambda held: held.update(epoch=40), "40 of them are done"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_named_with_its_file(saved, tmp_path, fault):
    from clrtool.config.file import find_config, load_config
    from clrtool.engine.configured.build import build_workload

    change, told = FAULTS[fault]
    held = torch.load(saved[0] / "last.pt", weights_only=True)
    change(held)
    torch.save(held, tmp_path / "bad.pt")
    config = load_config(find_config("digits"), [SMALL, "plan.epochs=20", f"start={tmp_path / 'bad.pt'}"])
    with pytest.raises(ConfigError) as caught:
        build_workload(config, device="cpu")
    assert told in str(caught.value)
    assert str(tmp_path / "bad.pt") in str(caught.value)


class _Runs:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


@pytest.mark.parametrize("place", ["optimizer", "callbacks", "model"])
def test_nothing_of_a_checkpoint_is_run(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"a": torch.zeros(1)}, place: {"state": _Runs(), "param_groups": []}}, "evil.pt")
    with pytest.raises(ConfigError, match="without running code"):
        read_checkpoint(Path("evil.pt"))
    assert not Path("ran").exists()
    torch.save(_Runs(), "optimizer.pt")
    save_file({"a": torch.zeros(1)}, "model.safetensors")
    with pytest.raises(ConfigError, match="without running code"):
        read_checkpoint(Path())
    assert not Path("ran").exists()


def test_a_state_of_an_optimizer_is_plain_and_of_a_depth_that_torch_writes(tmp_path):
    step = torch.ones(2)
    step.detach = "a text where a method is"
    state = {"state": {0: {"momentum_buffer": step}}, "param_groups": [{"params": [0], "betas": (0.9, 0.99)}]}
    torch.save({"model": {"a": torch.zeros(2)}, "optimizer": state}, file := tmp_path / "last.pt")
    (found,) = read_checkpoint(file).optimizers
    assert not vars(found["state"][0]["momentum_buffer"])
    assert found["param_groups"] == state["param_groups"]
    deep = []
    for _ in range(30):
        deep = [deep]
    state["state"][0]["deep"] = deep
    torch.save({"model": {"a": torch.zeros(2)}, "optimizer": state}, file)
    with pytest.raises(ConfigError, match="containers deep"):
        read_checkpoint(file)


def test_a_folder_without_weights_is_told_with_what_it_has(tmp_path):
    (tmp_path / "README").write_text("x")
    with pytest.raises(MachineError, match="it has README"):
        read_checkpoint(tmp_path)


def test_a_warm_up_of_no_seed_that_is_finite_is_not_needed():
    assert not judge_warm_up(1, [[math.inf]], [[math.inf]]).needed
    assert WarmUp(1, (math.inf,), (1.0,), needed=True).cost == 4


def test_the_program_of_the_guide_prints_what_stands_there():
    """But for the last digits, which another machine may round otherwise."""
    page = (FOLDER / "under-way.md").read_text()
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(snippet("keep_state=True"), {})  # noqa: S102
    names = [
        line[:18].strip() for line in page.split("```text\n")[1].split("```")[0].splitlines() if line.startswith(" ")
    ]
    printed = output.getvalue()
    assert len(names) > 6
    for name in filter(None, names):
        assert f" {name}" in printed


def test_the_losses_that_the_guide_tells_are_those_of_the_benchmark():
    measured = (FOLDER.parents[1] / "tests" / "benchmarks" / "UNDER_WAY.md").read_text()
    known = re.findall(r"mean ([\d.]+ %), worst ([\d.]+ %)", measured)
    told = re.findall(r"^\| [^|]+ \| ([\d.]+ %) \| ([\d.]+ %) \|$", (FOLDER / "under-way.md").read_text(), re.M)
    assert sorted(told) == sorted(known)
    assert len(known) == 3


def test_the_callbacks_of_the_guide_are_those_that_there_are():
    pytest.importorskip("lightning.pytorch")
    import clrtool.lightning

    names = {"clrtool": clrtool}
    exec(snippet("lightning.LRRangeTest(at_epoch"), names)  # noqa: S102
    assert isinstance(names["callback"], clrtool.lightning.LRRangeTest)


class AfterIterations:
    """What asks to stop once so many iterations were trained."""

    save = False

    def __init__(self, left):
        self._left = left

    @property
    def stop(self):
        self._left -= 1
        return 15 if self._left < 0 else None


@pytest.mark.parametrize("stopped", [3, 25, 60])
def test_a_comparison_of_beginnings_that_is_interrupted_goes_on_to_the_same_numbers(saved, stopped):
    from clrtool.config.file import find_config, load_config
    from clrtool.engine.configured.build import build_workload
    from clrtool.engine.rangetest.going_on import compare_beginnings
    from clrtool.engine.rangetest.share import Kept
    from clrtool.engine.resume.journal import Journal
    from clrtool.engine.runtime.serialize import from_bytes, to_bytes
    from clrtool.errors import Interrupted

    config = load_config(find_config("digits"), [SMALL, "plan.epochs=20", f"start={saved[0] / 'last.pt'}"])
    workload = build_workload(config, device="cpu")
    whole = compare_beginnings(workload, (0, 1), 0.05, 20, Journal())
    kept = Kept()
    with pytest.raises(Interrupted):
        compare_beginnings(workload, (0, 1), 0.05, 20, Journal(kept, AfterIterations(stopped), every=1e9))
    values = from_bytes(to_bytes(dict(kept.values)))
    assert compare_beginnings(workload, (0, 1), 0.05, 20, Journal(saved=values)) == whole
