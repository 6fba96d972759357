"""The range test of Lightning's modules and of transformers' Trainers, on small models that are made here."""

import copy
import hashlib
import io
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from clrtool.core.planning.make import make_plan
from clrtool.engine.models.checkpoint import read_checkpoint
from clrtool.errors import ConfigError
from tests.documents import snippet
from tests.test_projects import digest

pytestmark = [
    # of both frameworks themselves, under this torch and this Python
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*no accelerator"),
]
lightning = pytest.importorskip("lightning.pytorch")
transformers = pytest.importorskip("transformers")

import clrtool.lightning  # noqa: E402
import clrtool.transformers  # noqa: E402

QUICK = {"start_lr": 1e-3, "end_lr": 1.0, "sweep_epochs": 3, "evaluations": 8, "seeds": 2, "progress": False}


def blobs(size, seed):
    """Two classes that a line tells apart, nearly."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, 8, generator=generator)
    return TensorDataset(inputs, (inputs[:, 0] + 0.3 * torch.randn(size, generator=generator) > 0).long())


TRAIN, HELDOUT = blobs(320, 0), blobs(200, 1)


class Module(lightning.LightningModule):
    """A module as tutorials write them: it logs, and looks at its Trainer."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        self.rates = []

    def forward(self, inputs):
        return self.net(inputs)

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, prog_bar=True)
        self.log_dict({"step": float(self.trainer.global_step), "epoch_now": float(self.current_epoch)})
        return {"loss": loss}

    def validation_step(self, batch, batch_idx):
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def on_before_optimizer_step(self, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])

    def accuracy(self):
        inputs, targets = HELDOUT[:]
        return float((self(inputs).argmax(1) == targets).float().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1)}

    def train_dataloader(self):
        return DataLoader(TRAIN, 32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(HELDOUT, 50)


def trainer(folder, **options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    usual = quiet | {"enable_checkpointing": False, "max_epochs": 4}
    return lightning.Trainer(default_root_dir=folder, **usual | options)


def state_of(module):
    file = io.BytesIO()
    torch.save([module.state_dict(), [each.training for each in module.modules()], torch.get_rng_state()], file)
    return hashlib.sha256(file.getvalue()).hexdigest()


def test_a_lightning_module_is_tested_and_nothing_of_it_or_its_trainer_is_changed(tmp_path):
    module, mine = Module(), trainer(tmp_path, accumulate_grad_batches=2, gradient_clip_val=1.0)
    before = state_of(module)
    found = clrtool.lightning.range_test(mine, module, **QUICK)
    assert state_of(module) == before
    assert (mine.global_step, mine.current_epoch, mine.lightning_module, module._trainer) == (0, 0, None, None)
    assert found.record.sweep.metric.name == "accuracy"
    assert (found.record.sweep.iterations_per_epoch, found.plan.epochs) == (5, 4)
    assert max(found.curves[0].metric) > 0.8
    assert list(tmp_path.iterdir()) == []


class Stops(Module):
    """A module whose training ends otherwise after some steps."""

    def __init__(self, steps, error):
        super().__init__()
        self.left = iter(range(steps))
        self.error = error

    def __deepcopy__(self, memo):
        """Copies count on together, and raise the same."""
        memo |= {id(self.left): self.left, id(self.error): self.error, id(self): (copied := Module())}
        copied.__class__, copied.__dict__ = Stops, copy.deepcopy(self.__dict__, memo)
        return copied

    def training_step(self, batch, batch_idx):
        if next(self.left, None) is None:
            raise self.error
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ArithmeticError("mine")])
@pytest.mark.parametrize("steps", [0, 12])
def test_a_module_that_ends_a_test_is_as_it_was_and_its_exception_comes_through(tmp_path, steps, error):
    module, mine = Stops(steps, error), trainer(tmp_path)
    before = state_of(module)
    with pytest.raises(type(error)) as got:
        clrtool.lightning.range_test(mine, module, **QUICK)
    assert got.value is error
    assert state_of(module) == before
    assert (mine.global_step, mine.lightning_module, module._trainer) == (0, None, None)


def test_a_fit_that_ends_in_its_range_test_has_changed_no_weight(tmp_path):
    error = ArithmeticError("mine")
    module, callback = Stops(12, error), clrtool.lightning.LRRangeTest(**QUICK)
    before = digest(module)
    with pytest.raises(ArithmeticError) as got:
        trainer(tmp_path, callbacks=[callback]).fit(module)
    assert (got.value, callback.result, digest(module)) == (error, None, before)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ArithmeticError("mine")])
@pytest.mark.parametrize("steps", [0, 12])
def test_a_trainer_whose_loss_ends_a_test_is_as_it_was_and_its_exception_comes_through(tmp_path, steps, error):
    class Mine(transformers.Trainer):
        def compute_loss(self, *args, **kwargs):
            if next(left, None) is None:
                raise error
            return super().compute_loss(*args, **kwargs)

    left = iter(range(steps))
    mine = Mine(bert(), arguments(tmp_path), train_dataset=Sentences(100, 0), eval_dataset=Sentences(60, 1))
    before, known = state_of(mine.model), dict(vars(mine))
    with pytest.raises(type(error)) as got:
        clrtool.transformers.range_test(mine, **QUICK)
    assert got.value is error
    assert state_of(mine.model) == before
    assert vars(mine) == known


def test_it_runs_after_a_training_and_within_one_as_it_does_before(tmp_path):
    """Where Lightning's own finder gives no point and None."""
    results, begins = [], []

    class Again(lightning.Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 2:
                loaders = trainer.train_dataloader, trainer.val_dataloaders
                before = state_of(module)
                begins.append(module.accuracy())
                results.append(clrtool.lightning.range_test(
                    trainer, module, train_dataloaders=loaders[0], val_dataloaders=loaders[1], **QUICK
                ))  # fmt: skip
                assert state_of(module) == before

    module, mine = Module(), trainer(tmp_path, callbacks=[Again()])
    mine.fit(module)
    assert (mine.global_step, mine.current_epoch) == (40, 4)
    begins.append(module.accuracy())
    results.append(clrtool.lightning.range_test(mine, module, **QUICK))
    for found, accuracy in zip(results, begins, strict=True):
        assert min(len(curve.lr) for curve in found.curves) > 3
        assert found.curves[0].metric[0] == pytest.approx(accuracy), "it begins where the training has come to"


class StopAfterTwoEpochs(lightning.Callback):
    def __init__(self, steps=20):
        self.steps = steps

    def on_train_epoch_end(self, trainer, module):
        trainer.should_stop = trainer.global_step == self.steps


def test_the_callback_applies_the_plan_step_by_step_and_a_resumed_training_goes_on_with_it(tmp_path):
    callback = clrtool.lightning.LRRangeTest(monitor="val_acc", **QUICK)
    module, mine = Module(), trainer(tmp_path, callbacks=[callback])
    mine.fit(module)
    plan = callback.result.plan
    assert callback.result.record.sweep.metric.name == "val_acc"
    assert plan.epochs == 4
    expected = plan.lr(range(40)).tolist()
    assert module.rates == pytest.approx(expected)
    first = clrtool.lightning.LRRangeTest(monitor="val_acc", **QUICK)
    stopped, half = Module(), trainer(tmp_path, callbacks=[first, StopAfterTwoEpochs()])
    half.fit(stopped)
    half.save_checkpoint(tmp_path / "half.ckpt")
    other = clrtool.lightning.LRRangeTest(monitor="val_acc", **QUICK)
    resumed, rest = Module(), trainer(tmp_path, callbacks=[other])
    rest.fit(resumed, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert other.result is None, "no second test"
    assert resumed.rates == pytest.approx(first.result.plan.lr(range(20, 40)).tolist())


def test_a_module_that_cannot_be_tested_is_refused(tmp_path):
    module = Module()
    with pytest.raises(ConfigError, match="monitor: validation_step does not log 'acc'; it logs val_acc"):
        clrtool.lightning.range_test(trainer(tmp_path), module, monitor="acc", **QUICK)
    with pytest.raises(ConfigError, match="mode = 'best' must be 'max' or 'min'"):
        clrtool.lightning.range_test(trainer(tmp_path), module, mode="best", **QUICK)


class Terse(Module):
    """A module that names its second argument otherwise, and skips every third batch."""

    def training_step(self, batch, _):
        assert isinstance(_, int)
        self.seen = getattr(self, "seen", 0) + 1
        return None if self.seen % 3 == 2 else nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, place):
        assert isinstance(place, int)
        super().validation_step(batch, place)


def test_arguments_of_steps_go_by_position_and_a_step_may_skip_its_batch(tmp_path):
    found = clrtool.lightning.range_test(trainer(tmp_path), Terse(), monitor="val_acc", **QUICK)
    assert max(found.curves[0].metric) > 0.8


class Two(Module):
    """Two optimizers that one training_step serves: Lightning has it step them itself."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizers = self.optimizers()
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        [each.zero_grad() for each in optimizers]
        self.manual_backward(loss)
        self.rates.append([each.param_groups[0]["lr"] for each in optimizers])
        [each.step() for each in optimizers]

    on_before_optimizer_step = lightning.LightningModule.on_before_optimizer_step

    def configure_optimizers(self):
        first, last = self.net[0], self.net[2]
        return [torch.optim.SGD(first.parameters(), 0.1, momentum=0.9), torch.optim.AdamW(last.parameters(), 1e-3)]


class Served(Two):
    """The same, of whose loss Lightning is told as of one optimizer's: it tests, and would not fit."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = True

    training_step = Module.training_step


def test_two_optimizers_that_a_module_steps_itself_are_tested_together_by_the_loss_that_they_share(tmp_path):
    torch.manual_seed(0)
    module, mine = Two(), trainer(tmp_path)
    before = state_of(module)
    found = clrtool.lightning.range_test(mine, module, **QUICK)
    assert state_of(module) == before
    assert module.rates == []
    assert "optimizers" not in vars(module)
    assert [group.lr_ratio for group in found.record.sweep.groups] == [1.0, pytest.approx(0.01)]
    torch.manual_seed(0)
    plain = clrtool.lightning.range_test(trainer(tmp_path), Served(), **QUICK)
    for curve, other in zip(found.curves, plain.curves, strict=True):
        assert curve.train_loss.tolist()[1:] == other.train_loss.tolist()[1:]
        assert curve.heldout_loss.tolist() == other.heldout_loss.tolist()


def test_a_fit_of_two_optimizers_follows_the_plan_at_their_ratio_also_after_a_checkpoint(tmp_path):
    tested, module = clrtool.lightning.LRRangeTest(monitor="val_acc", **QUICK), Two()
    mine = trainer(tmp_path, callbacks=[tested, StopAfterTwoEpochs(40)])
    mine.fit(module)
    mine.save_checkpoint(tmp_path / "half.ckpt")
    again, resumed = clrtool.lightning.LRRangeTest(**QUICK), Two()
    trainer(tmp_path, callbacks=[again]).fit(resumed, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert again.result is None
    rates = tested.result.plan.lr(range(40)).tolist()
    assert module.rates + resumed.rates == [pytest.approx([rate, 0.01 * rate]) for rate in rates]


def test_steps_of_every_optimizer_that_a_module_drives_are_counted_as_the_trainer_counts_them(tmp_path):
    """Two to a batch: 60 of them are 30 iterations."""
    mine, words = trainer(tmp_path, max_steps=60), QUICK | {"policy": "cosine"}
    assert clrtool.lightning.range_test(mine, Two(), **words).plan.iterations == 30
    module = Two()
    mine.fit(module)
    assert len(module.rates) == 30


def drives(step):
    """A module whose training_step, of (module, batch, loss, optimizers), is another."""

    class Other(Two):
        def training_step(self, batch, batch_idx):
            return step(self, nn.functional.cross_entropy(self(batch[0]), batch[1]), *self.optimizers())

    return Other()


def against_each_other(module, loss, first, last):
    for optimizer in (first, last):
        optimizer.zero_grad()
        module.manual_backward(loss, retain_graph=True)
        optimizer.step()


def clipped(module, loss, first, last):
    module.manual_backward(loss)
    module.clip_gradients(first, gradient_clip_val=1.0)
    first.step(), last.step()


def summed(module, loss, first, last):
    module.manual_backward(0.5 * loss, retain_graph=True)
    module.manual_backward(0.5 * loss)
    first.step(), last.step()
    first.zero_grad(), last.zero_grad()


def rests(module, loss, first, last):
    module.manual_backward(loss)
    first.step()


def direct(module, loss, first, last):
    loss.backward()
    first.step(), last.step()


def closed(module, loss, first, last):
    module.manual_backward(loss)
    first.step(closure=lambda: loss)


REFUSED = {
    against_each_other: "test one, the other held as it is",
    clipped: "give it clip_norm=N",
    rests: "steps 1 of its 2 optimizers",
    direct: r"self\.manual_backward\(loss\)",
    closed: "a closure",
}


@pytest.mark.parametrize("step", REFUSED)
def test_a_step_that_is_not_one_loss_for_all_optimizers_is_refused_with_what_to_do(tmp_path, step):
    with pytest.raises(ConfigError, match=REFUSED[step]):
        clrtool.lightning.range_test(trainer(tmp_path), drives(step), **QUICK)


def test_losses_that_are_added_up_and_clipping_that_the_range_test_was_told_of_are_taken(tmp_path):
    for step, words in ((summed, {}), (clipped, {"clip_norm": 1.0})):
        found = clrtool.lightning.range_test(trainer(tmp_path), drives(step), **QUICK | words)
        assert max(found.curves[0].metric) > 0.8


def test_a_module_that_steps_schedulers_itself_keeps_them_or_is_told(tmp_path):
    class Own(Two):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            self.lr_schedulers().step()

        def configure_optimizers(self):
            optimizers = super().configure_optimizers()
            return optimizers, [torch.optim.lr_scheduler.StepLR(optimizers[0], 5)]

    mine = trainer(tmp_path, callbacks=[clrtool.lightning.LRRangeTest(**QUICK)])
    with pytest.raises(ConfigError, match="return the optimizers alone from configure_optimizers"):
        mine.fit(Own())
    kept = clrtool.lightning.LRRangeTest(apply=False, **QUICK)
    trainer(tmp_path, callbacks=[kept]).fit(Own())
    assert max(kept.result.curves[0].metric) > 0.8


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, samples):
        self.samples = samples

    def __iter__(self):
        return iter([self.samples[place] for place in range(len(self.samples))])


LENGTHS = {
    "a limit": ({"limit_train_batches": 4}, DataLoader(TRAIN, 32), (4, 16)),
    "a share": ({"limit_train_batches": 0.5}, DataLoader(TRAIN, 32), (5, 20)),
    "accumulation": ({"limit_train_batches": 6, "accumulate_grad_batches": 4}, DataLoader(TRAIN, 32), (2, 8)),
    "steps": ({"max_steps": 25}, DataLoader(TRAIN, 32), (10, 25)),
    "steps of a stream": ({"max_steps": 60}, DataLoader(Stream(TRAIN), 32), (2, 60)),
    "a stream with a limit": ({"limit_train_batches": 7}, DataLoader(Stream(TRAIN), 32), (7, 28)),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_a_plan_is_as_long_as_the_trainer_trains(name, tmp_path):
    options, train, expected = LENGTHS[name]
    words = QUICK | {"sweep_epochs": 20, "seeds": 1, "policy": "cosine"}
    mine = trainer(tmp_path, **options)
    found = clrtool.lightning.range_test(mine, Module(), train_dataloaders=train, **words)
    assert (found.plan.iterations_per_epoch, found.plan.iterations) == expected


@pytest.mark.parametrize("kind", ["none given", "none wanted", "none in the module"])
def test_a_module_without_held_out_batches_is_tested_and_never_clear(kind, tmp_path):
    class Alone(Module):
        val_dataloader = lightning.LightningModule.val_dataloader
        validation_step = lightning.LightningModule.validation_step

    words = {"val_dataloaders": []} if kind == "none given" else {}
    mine = trainer(tmp_path, **({"limit_val_batches": 0} if kind == "none wanted" else {}))
    found = clrtool.lightning.range_test(mine, Alone() if "module" in kind else Module(), progress=False, **words)
    assert found.verdict.word in ("weak", "inconclusive")
    assert "SPLIT_OFF" in [each.name for each in found.bounds.advice]


def test_a_callback_that_unfreezes_and_adds_a_group_goes_on_by_the_plan(tmp_path):
    tested = clrtool.lightning.LRRangeTest(monitor="val_acc", **QUICK | {"end_lr": 0.1})
    thaw = lightning.callbacks.BackboneFinetuning(2, lambda epoch: 1.0, backbone_initial_ratio_lr=0.1)
    mine, module = trainer(tmp_path, callbacks=[tested, thaw]), Fine()
    mine.fit(module)
    first, second = mine.optimizers[0].param_groups
    assert second["lr"] == pytest.approx(0.1 * first["lr"])
    assert first["lr"] == pytest.approx(tested.result.plan.lr([40])[0])


def test_a_fit_whose_test_finds_no_bounds_warns_and_trains_as_it_would_without(tmp_path):
    class Coin(Module):
        def train_dataloader(self):
            inputs, targets = TRAIN[:]
            shuffled = targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(5))]
            return DataLoader(TensorDataset(inputs, shuffled), 32)

        def val_dataloader(self):
            inputs, targets = HELDOUT[:]
            return DataLoader(TensorDataset(inputs, 1 - targets), 50)

    def fitted(*callbacks, resumed=None, epochs=4):
        torch.manual_seed(3)
        mine, module = trainer(tmp_path, callbacks=[*callbacks]), Coin()
        mine.fit_loop.max_epochs = epochs
        mine.fit(module, ckpt_path=resumed, weights_only=None if resumed is None else True)
        return mine, module

    tested, again = clrtool.lightning.LRRangeTest(**QUICK), clrtool.lightning.LRRangeTest(**QUICK)
    with pytest.warns(UserWarning, match="found no bounds, so the training keeps the rates of configure_optimizers: "):
        mine, module = fitted(tested, epochs=2)
    assert tested.result.max_lr is None
    mine.save_checkpoint(tmp_path / "half.ckpt")
    _, rest = fitted(again, resumed=tmp_path / "half.ckpt")
    assert again.result is None  # the training is on its way, and is not tested
    _, plain = fitted()
    assert module.rates + rest.rates == plain.rates
    assert all(torch.equal(one, other) for one, other in zip(rest.parameters(), plain.parameters(), strict=True))


UNDER_WAY = {"at_epoch": {"at_epoch": 3}, "plateau": {"when": "plateau", "patience": 1, "threshold": 0.5}}


def fitted(folder, callbacks, **options):
    """A module after six epochs, and a hash of all that training changes."""
    torch.manual_seed(4)
    module, mine = Module(), trainer(folder, max_epochs=6, callbacks=callbacks, **options)
    mine.fit(module)
    return module, mine, state_of(module)


class SaveAfterFourEpochs(lightning.Callback):
    def on_train_epoch_end(self, trainer, module):
        if trainer.current_epoch == 3:
            trainer.save_checkpoint(f"{trainer.default_root_dir}/four.ckpt")


@pytest.mark.short(1)
@pytest.mark.parametrize("time", UNDER_WAY)
def test_a_fit_that_is_only_measured_on_its_way_ends_in_the_same_bytes(time, tmp_path):
    callback = clrtool.lightning.LRRangeTest(apply=False, monitor="val_acc", progress=False, **UNDER_WAY[time])
    with_it, without = fitted(tmp_path, [callback]), fitted(tmp_path, [])
    assert callback.result is not None
    assert with_it[2] == without[2]
    assert with_it[0].rates == without[0].rates
    going_on = callback.result.record.going_on
    assert going_on.start.optimizer_state == 4
    assert going_on.loss < 0.69


def test_a_fit_follows_the_plan_from_the_epoch_at_which_it_was_tested_on_also_when_it_resumes(tmp_path):
    options = {"monitor": "val_acc", "at_epoch": 2, "progress": False}
    first = clrtool.lightning.LRRangeTest(**options)
    module, *_ = fitted(tmp_path, [first, SaveAfterFourEpochs()])
    assert first.result.record.plan is not None, "the blobs are learned from there"
    planned = first.result.plan.lr(range(40)).tolist()
    assert len(planned) == 4 * 10
    assert module.rates[20:] == pytest.approx(planned)
    assert module.rates[:20] == pytest.approx([0.1] * 10 + [0.01] * 10)
    other, again = clrtool.lightning.LRRangeTest(**options), Module()
    trainer(tmp_path, max_epochs=6, callbacks=[other]).fit(again, ckpt_path=tmp_path / "four.ckpt")
    assert other.result is None
    assert again.rates == pytest.approx(planned[20:])
    held = read_checkpoint(tmp_path / "four.ckpt")  # of Lightning's own making, with the states of callbacks
    assert (held.steps, len(held.optimizers)) == (40, 1)
    assert held.weights.keys() == again.state_dict().keys()


def test_a_folder_that_a_trainer_saved_is_read_with_its_state(tmp_path):
    mine = transformers.Trainer(
        bert(), arguments(tmp_path, max_steps=3, save_steps=3, save_strategy="steps"), train_dataset=Sentences(24, 0)
    )
    mine.train()
    held = read_checkpoint(tmp_path / "checkpoint-3")
    assert (held.steps, len(held.optimizers)) == (3, 1)
    assert held.weights.keys() <= mine.model.state_dict().keys()
    assert held.optimizers[0]["state"][0].keys() >= {"exp_avg", "exp_avg_sq", "step"}


def test_times_that_are_none_are_refused():
    for options, told in (
        ({"when": "never"}, "must be 'plateau'"),
        ({"when": "plateau"}, "monitor: when='plateau' needs"),
        ({"at_epoch": -1}, "at_epoch = -1 must be a whole number"),
        ({"at_epoch": 2, "when": "plateau", "monitor": "val_acc"}, "without when"),
    ):
        with pytest.raises(ConfigError, match=told):
            clrtool.lightning.LRRangeTest(**options)


class Fine(Module):
    """A backbone and a head, of which BackboneFinetuning lets the head alone begin."""

    def __init__(self):
        super().__init__()
        self.backbone = self.net[0]

    def configure_optimizers(self):
        return torch.optim.AdamW([each for each in self.parameters() if each.requires_grad], 1e-2)


def all_of(model, optimizers, loaders):
    """A hash of whatever a range test could have changed."""
    return digest([
        model.state_dict(), [each.training for each in model.modules()], [each.grad for each in model.parameters()],
        [each.requires_grad for each in model.parameters()], [each.state_dict() for each in optimizers],
        [each.generator.get_state() for each in loaders if each.generator is not None],
        torch.get_rng_state(), random.getstate(), repr(np.random.get_state()),  # noqa: NPY002 (the global one)
    ])  # fmt: skip


class Watch(lightning.Callback):
    """Hashes when a fit begins; two of them stand around another callback."""

    def on_train_start(self, trainer, module):
        self.seen = all_of(module, trainer.optimizers, [trainer.train_dataloader, trainer.val_dataloaders])


@pytest.mark.parametrize("kind", [Two, Fine], ids=["two optimizers", "BackboneFinetuning"])
def test_a_fit_of_lightning_is_after_its_range_test_what_it_was(tmp_path, kind):
    before, after = Watch(), Watch()
    tested = clrtool.lightning.LRRangeTest(apply=False, **QUICK)
    thaw = [lightning.callbacks.BackboneFinetuning(2)] if kind is Fine else []
    mine = trainer(tmp_path, callbacks=[*thaw, before, tested, after])
    loader = DataLoader(TRAIN, 32, shuffle=True, generator=torch.Generator().manual_seed(3))
    mine.fit(kind(), loader, DataLoader(HELDOUT, 50))
    assert before.seen == after.seen
    assert len(tested.result.curves) == QUICK["seeds"]


@pytest.mark.parametrize("kind", ["compute_metrics", "stream"])
def test_a_trainer_of_transformers_is_after_its_range_test_what_it_was(tmp_path, kind):
    if kind == "stream":
        mine = transformers.Trainer(bert(), arguments(tmp_path, max_steps=50), train_dataset=Stream(Sentences(400, 0)))
    else:
        mine = scored(tmp_path)
    optimizer = mine.create_optimizer()
    known, before = set(vars(mine)), all_of(mine.model, [optimizer], [])
    asked = {"metric": "eval_f1", "higher_is_better": True} if kind == "compute_metrics" else {}
    clrtool.transformers.range_test(mine, **QUICK | asked)
    assert all_of(mine.model, [optimizer], []) == before
    assert (mine.optimizer, set(vars(mine)), mine.state.global_step) == (optimizer, known, 0)


class Sentences(torch.utils.data.Dataset):
    """Sentences of 6 words of 40, whose class is whether the first is below 20; or which tell themselves."""

    def __init__(self, size, seed, labels="class"):
        generator = torch.Generator().manual_seed(seed)
        self.tokens, self.labels = torch.randint(2, 40, (size, 6), generator=generator), labels

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, place):
        tokens = self.tokens[place]
        return {"input_ids": tokens, "labels": tokens if self.labels == "tokens" else (tokens[0] < 20).long()}


def bert():
    config = transformers.BertConfig(vocab_size=40, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                                     intermediate_size=32, max_position_embeddings=8, num_labels=2)  # fmt: skip
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(config)


def gpt2():
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=40, n_positions=8, n_embd=16, n_layer=1, n_head=2)
    )


def arguments(folder, **options):
    given = {"per_device_train_batch_size": 20, "num_train_epochs": 4, "report_to": "none", "use_cpu": True,
             "save_strategy": "no", "disable_tqdm": True, "logging_strategy": "no", "dataloader_pin_memory": False}  # fmt: skip
    return transformers.TrainingArguments(output_dir=str(folder), **given | options)


class Rates(transformers.TrainerCallback):
    def __init__(self):
        self.rates = []

    def on_optimizer_step(self, args, state, control, optimizer, **_):
        self.rates.append(optimizer.param_groups[0]["lr"])


def test_a_fine_tuning_of_transformers_is_tested_and_follows_the_plan(tmp_path):
    rates = Rates()
    mine = transformers.Trainer(
        bert(), arguments(tmp_path, gradient_accumulation_steps=2), callbacks=[rates],
        train_dataset=Sentences(400, 0), eval_dataset=Sentences(100, 1),
    )  # fmt: skip
    before, known = state_of(mine.model), set(vars(mine))
    prepared = len(mine.accelerator._dataloaders)
    found = clrtool.transformers.range_test(mine, **QUICK | {"start_lr": 1e-4, "sweep_epochs": 4})
    assert state_of(mine.model) == before
    assert (mine.optimizer, mine.lr_scheduler, len(mine.accelerator._dataloaders)) == (None, None, prepared)
    assert set(vars(mine)) == known
    sweep = found.record.sweep
    assert (sweep.metric.name, sweep.iterations_per_epoch, [group.weight_decay for group in sweep.groups]) == (
        "accuracy",
        10,
        [0, 0],
    )
    assert max(found.curves[0].metric) > 0.8
    assert found.plan.epochs == 4
    clrtool.transformers.apply_plan(mine, found.plan)
    mine.train()
    assert rates.rates == pytest.approx(found.plan.lr(range(40)).tolist())
    again = clrtool.transformers.range_test(mine, **QUICK)
    assert again.curves[0].heldout_loss[0] == pytest.approx(mine.evaluate()["eval_loss"]), (
        "it begins where that has come to"
    )


def test_a_callback_gives_every_step_the_rate_of_the_plan_also_after_a_checkpoint(tmp_path):
    plan = make_plan(1e-4, 1e-3, 10, epochs=4, cycles=2)
    words = {"num_train_epochs": 4, "per_device_train_batch_size": 40, "save_strategy": "steps", "save_steps": 15}
    data = {"train_dataset": Sentences(400, 0)}
    for resumed in (False, True):
        rates = Rates()
        mine = transformers.Trainer(
            bert(), arguments(tmp_path, **words), callbacks=[clrtool.transformers.PlanCallback(plan), rates], **data
        )
        mine.train(resume_from_checkpoint=str(tmp_path / "checkpoint-15") if resumed else None)
        assert rates.rates == pytest.approx(plan.lr(range(15 if resumed else 0, 40)).tolist())


def under_way(folder, callback=None, **options):
    """A Trainer with the rates of its steps, perhaps with a range test in the middle."""
    rates = Rates()
    mine = transformers.Trainer(
        bert(), arguments(folder, eval_strategy="epoch", **options), callbacks=[rates],
        train_dataset=Sentences(400, 0), eval_dataset=Sentences(100, 1),
    )  # fmt: skip
    if callback is not None:
        mine.add_callback(made := clrtool.transformers.LRRangeTest(mine, **callback, progress=False))
    mine.train()
    return mine, rates.rates, None if callback is None else made


@pytest.mark.short(0)
def test_a_trainer_that_is_only_tested_in_the_middle_ends_in_the_bytes_of_one_that_is_not(tmp_path):
    plain, rates, _ = under_way(tmp_path)
    tested, same, callback = under_way(tmp_path, {"at_epoch": 2, "apply": False})
    assert callback.result.record.going_on.start.optimizer_state > 0
    assert callback.begun == 40
    assert same == rates
    assert state_of(tested.model) == state_of(plain.model)


def test_a_trainer_follows_the_plan_of_the_rest_from_the_epoch_at_which_it_was_tested(tmp_path):
    _, rates, _ = under_way(tmp_path)
    _, mine, callback = under_way(tmp_path, {"at_epoch": 2})
    plan = callback.result.plan
    assert (callback.begun, plan.iterations) == (40, 40)
    assert mine[:40] == rates[:40]
    assert mine[40:] == pytest.approx(plan.lr(range(40)).tolist())


@pytest.mark.short(0)
def test_a_trainer_is_tested_on_a_plateau_and_a_metric_that_it_does_not_give_is_named(tmp_path):
    flat = {"when": "plateau", "patience": 0, "threshold": 0.99, "apply": False}
    _, _, callback = under_way(tmp_path, flat)
    assert callback.begun == 40  # the first evaluation is the best, the second no improvement
    with pytest.raises(ConfigError, match="gives no 'eval_f2'; it gives eval_loss"):
        under_way(tmp_path, flat | {"monitor": "eval_f2"})
    for wrong in ({}, {"at_epoch": -1}, {"when": "later"}, {"at_epoch": 1, "mode": "up"}):
        with pytest.raises(ConfigError, match=r"at_epoch|when|mode"):
            clrtool.transformers.LRRangeTest(None, **wrong)


def test_a_language_model_is_read_from_its_loss(tmp_path):
    mine = transformers.Trainer(
        gpt2(), arguments(tmp_path), train_dataset=Sentences(100, 0, "tokens"), eval_dataset=Sentences(40, 1, "tokens")
    )
    found = clrtool.transformers.range_test(mine, **QUICK)
    assert found.record.sweep.metric.name == "loss"
    expected = mine.evaluate()["eval_loss"]
    assert found.curves[0].heldout_loss[0] == pytest.approx(expected, rel=1e-3)


def test_a_trainer_that_cannot_be_tested_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="needs a model and a train_dataset"):
        clrtool.transformers.range_test(transformers.Trainer(bert(), arguments(tmp_path)))


def test_the_code_of_the_readme_runs_for_lightning(tmp_path, monkeypatch):
    monkeypatch.setattr(clrtool.api.rangetest, "range_test", quickly(clrtool.api.rangetest.range_test))
    names = {"Trainer": lambda max_epochs, **options: trainer(tmp_path, **options), "module": Module()}
    exec(snippet("import clrtool.lightning"), names)  # noqa: S102 (it is our own)
    assert names["test"].plan.epochs == 4
    names["trainer"].fit(names["module"])
    (callback,) = [each for each in names["trainer"].callbacks if isinstance(each, clrtool.lightning.LRRangeTest)]
    assert callback.result.record.sweep.metric.name == "val_acc"


def test_the_code_of_the_readme_runs_for_transformers(tmp_path, monkeypatch):
    monkeypatch.setattr(clrtool.api.rangetest, "range_test", quickly(clrtool.api.rangetest.range_test))
    data = {"train_dataset": Sentences(400, 0), "eval_dataset": Sentences(100, 1)}
    names = {"trainer": transformers.Trainer(bert(), arguments(tmp_path, num_train_epochs=1), **data)}
    exec(snippet("import clrtool.transformers"), names)  # noqa: S102 (it is our own)
    assert names["trainer"].state.global_step == 20


def test_a_loader_that_fabric_has_set_up_is_read_in_the_orders_of_the_one_in_it_whose_sampler_is_left_alone():
    from lightning.fabric import Fabric

    def found(prepared):
        torch.manual_seed(0)
        model = torch.nn.Linear(8, 2)
        sampler = DistributedSampler(TRAIN, num_replicas=1, rank=0)
        loader = DataLoader(TRAIN, batch_size=32, sampler=sampler)
        if prepared:
            loader = Fabric(accelerator="cpu").setup_dataloaders(loader, use_distributed_sampler=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        test = clrtool.range_test(model, optimizer, loader, loader, **QUICK)
        assert sampler.epoch == 0
        return [each.train_loss[1:].tolist() for each in test.curves]  # the first point comes before any training

    first, second = found(prepared=True)
    assert first != second
    assert [first, second] == found(prepared=False)


def quickly(test):
    """A range test with a sweep of three epochs, whatever else it is asked for."""
    return lambda *words, **options: test(*words, **options | QUICK)


def test_a_trainer_that_counts_steps_over_a_stream_without_an_eval_set_is_tested(tmp_path):
    mine = transformers.Trainer(
        bert(), arguments(tmp_path, max_steps=50), train_dataset=Stream(Sentences(400, 0)), data_collator=None
    )
    found = clrtool.transformers.range_test(mine, **QUICK | {"policy": "cosine", "sweep_epochs": 10})
    assert found.plan.iterations == 50
    assert "TRAINING_LOSS" in [each.name for each in found.bounds.advice]


def scores(prediction):
    """F1 of the second class, by hand: of a whole set, which is no mean over its batches."""
    said, is_so = prediction.predictions.argmax(-1) == 1, prediction.label_ids == 1
    return {"f1": 2 * float((said & is_so).sum()) / float(said.sum() + is_so.sum()), "said": float(said.mean())}


def scored(folder, **options):
    return transformers.Trainer(
        bert(), arguments(folder, per_device_eval_batch_size=30, **options), compute_metrics=scores,
        train_dataset=Sentences(200, 0), eval_dataset=Sentences(100, 1),
    )  # fmt: skip


@pytest.mark.short(1)
@pytest.mark.parametrize("is_asked", [True, False])
def test_a_metric_of_compute_metrics_is_that_of_the_trainers_own_evaluation(tmp_path, is_asked):
    mine = scored(tmp_path, **({} if is_asked else {"metric_for_best_model": "f1", "eval_strategy": "no"}))
    before = state_of(mine.model)
    asked = {"metric": "eval_f1", "higher_is_better": True} if is_asked else {}
    found = clrtool.transformers.range_test(mine, **QUICK | asked)
    assert state_of(mine.model) == before
    told = mine.evaluate()
    assert found.curves[0].metric[0] == pytest.approx(told["eval_f1"])
    assert found.curves[0].heldout_loss[0] == pytest.approx(told["eval_loss"], rel=1e-4)
    sweep = found.record.sweep
    assert (sweep.metric.label, sweep.metric.higher_is_better) == ("eval_f1" if is_asked else "f1", True)
    assert sweep.heldout_samples == 100


def test_a_name_that_compute_metrics_does_not_give_is_refused_with_those_that_it_gives(tmp_path):
    with pytest.raises(ConfigError, match=r"no 'eval_f11'; .*'f1'"):
        clrtool.transformers.range_test(scored(tmp_path), metric="eval_f11", higher_is_better=True, **QUICK)
    with pytest.raises(ConfigError, match="higher_is_better=True or False"):
        clrtool.transformers.range_test(scored(tmp_path), metric="eval_f1", **QUICK)


def test_half_precision_of_a_trainer_scales_the_gradients_of_its_range_test(tmp_path):
    """A CPU has no fp16 of either system's own, so what they would do is told them, as a GPU's trainer says it."""
    module, mine = Module(), trainer(tmp_path)
    mine.strategy.precision_plugin.precision = "16-mixed"
    found = clrtool.lightning.range_test(mine, module, **QUICK)
    plain = clrtool.lightning.range_test(trainer(tmp_path), module, **QUICK)
    assert found.curves[0].train_loss[1] == pytest.approx(plain.curves[0].train_loss[1], rel=0.02)
    assert found.curves[0].train_loss.tolist() != plain.curves[0].train_loss.tolist()
    mine.strategy.precision_plugin.precision = "16-true"
    with pytest.raises(ConfigError, match="'16-true' keeps weights in float16"):
        clrtool.lightning.range_test(mine, module, **QUICK)


@pytest.mark.short(0)
def test_fp16_of_the_arguments_of_transformers_is_that_of_its_range_test(tmp_path):
    def tested(half):
        torch.manual_seed(0)
        mine = transformers.Trainer(
            bert(), arguments(tmp_path), train_dataset=Sentences(400, 0), eval_dataset=Sentences(100, 1)
        )
        mine.args.fp16 = half
        return clrtool.transformers.range_test(mine, **QUICK).curves[0].train_loss

    half, full = tested(True), tested(False)
    assert half[1] == pytest.approx(full[1], rel=0.02)
    assert half.tolist() != full.tolist()


@pytest.mark.short(1)
@pytest.mark.parametrize("labels", ["tokens", "some"])
def test_token_accuracy_of_gpt2_is_that_of_its_labels_one_place_on(labels):
    data, held = Sentences(200, 0, "tokens"), Sentences(60, 1, "tokens")

    def collate(samples):
        tokens = torch.stack([each["input_ids"] for each in samples])
        return {"input_ids": tokens, "labels": tokens if labels == "tokens" else tokens.masked_fill(tokens < 9, -100)}

    def by_hand(model, batch):
        found, wanted = model(**batch).logits[:, :-1].argmax(-1), batch["labels"][:, 1:]
        return (found == wanted).sum(), (wanted != -100).sum()

    def curves(**asked):
        loaders = DataLoader(data, 20, shuffle=True, collate_fn=collate), DataLoader(held, 30, collate_fn=collate)
        found = clrtool.range_test(
            gpt2(), lambda model: torch.optim.AdamW(model.parameters()), *loaders, epochs=4, method="paper",
            **QUICK | asked,
        )  # fmt: skip
        return [curve.metric for curve in found.curves]

    ours = curves(metric="token_accuracy")
    theirs = curves(measure=by_hand, metric="hits", higher_is_better=True)
    assert max(ours[0]) > 0.02
    for mine, hand in zip(ours, theirs, strict=True):
        assert list(mine) == pytest.approx(list(hand), abs=1e-7)


def cross_entropy_of(outputs, labels, num_items_in_batch=None):
    return nn.functional.cross_entropy(outputs.logits, labels)


class Popping(transformers.Trainer):
    """A loss as many write it: it takes the labels out of the batch."""

    def compute_loss(self, model, inputs, return_outputs=False, **_):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = nn.functional.cross_entropy(outputs.logits, labels)
        return (loss, outputs) if return_outputs else loss


@pytest.mark.short(1)
@pytest.mark.parametrize("kind", ["a subclass", "compute_loss_func", "label smoothing"])
def test_a_loss_that_takes_the_labels_out_of_its_batch_finds_them_again(tmp_path, kind):
    made = Popping if kind == "a subclass" else transformers.Trainer
    words = {"compute_loss_func": cross_entropy_of} if kind == "compute_loss_func" else {}
    smoothing = {"label_smoothing_factor": 0.1} if kind == "label smoothing" else {}
    sets = {"train_dataset": Sentences(400, 0), "eval_dataset": Sentences(100, 1)}
    mine = made(bert(), arguments(tmp_path, **smoothing), **sets, **words)
    found = clrtool.transformers.range_test(mine, **QUICK)
    assert found.curves[0].heldout_loss[0] == pytest.approx(mine.evaluate()["eval_loss"], rel=0.05)
    assert max(found.curves[0].metric) > 0.7


def test_of_several_eval_sets_of_a_trainer_the_first_is_read(tmp_path):
    sets = {"near": Sentences(100, 1), "far": Sentences(60, 2)}
    mine = transformers.Trainer(bert(), arguments(tmp_path), train_dataset=Sentences(400, 0), eval_dataset=sets)
    assert clrtool.transformers.range_test(mine, **QUICK).record.sweep.heldout_samples == 100


class Doubled(Module):
    """Its batches are changed by a hook, as augmentations on a GPU are."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return torch.full_like(batch[0], 7.0), batch[1]

    def training_step(self, batch, batch_idx):
        assert batch[0].unique().item() == 7
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.log("mean", batch[0].mean())


class Data(lightning.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TRAIN, 32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(HELDOUT, 50)

    def on_before_batch_transfer(self, batch, dataloader_idx):
        return torch.full_like(batch[0], 7.0), batch[1]


@pytest.mark.parametrize("whose", ["module", "datamodule"])
def test_batches_go_through_the_hooks_that_change_them(tmp_path, whose):
    class Plain(Doubled):
        on_after_batch_transfer = Module.on_after_batch_transfer

    data = Data() if whose == "datamodule" else None
    module = Plain() if whose == "datamodule" else Doubled()
    found = clrtool.lightning.range_test(trainer(tmp_path), module, data, monitor="mean", **QUICK)
    assert set(found.curves[0].metric) == {7.0}


def test_a_module_that_clips_by_itself_is_told_to_say_how(tmp_path):
    class Clipping(Module):
        def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
            self.clip_gradients(optimizer, 1.0, "norm")

    with pytest.raises(ConfigError, match="give it clip_norm=N or clip_value=N"):
        clrtool.lightning.range_test(trainer(tmp_path), Clipping(), **QUICK)
    assert clrtool.lightning.range_test(trainer(tmp_path), Clipping(), clip_norm=1.0, **QUICK).max_lr


@pytest.mark.parametrize("kind", [dict, list, lightning.utilities.CombinedLoader])
def test_several_loaders_at_once_are_refused_with_what_to_give(tmp_path, kind):
    loaders = {"a": DataLoader(TRAIN, 32), "b": DataLoader(TRAIN, 32)}
    given = [*loaders.values()] if kind is list else kind(loaders)
    with pytest.raises(ConfigError, match="are several, and a range test reads one"):
        clrtool.lightning.range_test(trainer(tmp_path), Module(), train_dataloaders=given, **QUICK)
