"""The race over values on real trainings: what is measured, and that an interruption changes nothing of it."""

import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clrtool.engine.rangetest.flat_run import WARM_UP
from clrtool.engine.rangetest.observer import Observer
from clrtool.engine.rangetest.vary import Variant, Variation, _Lanes, run_variation
from clrtool.engine.resume.journal import Journal
from clrtool.engine.training.average import RunningAverage
from clrtool.engine.training.trainer import Trainer
from tests.engine.test_journal import interrupted
from tests.engine.workloads import digits

DECAYS = {"keys": ("optimizer.args.weight_decay",), "values": (0.0, 0.01)}
SIZES = {"keys": ("data.batch_size",), "values": (25, 50, 100)}
DROPOUT = {"keys": ("model.args.dropout",), "values": (0.1, 0.4)}
PRECISIONS = {"keys": ("precision",), "values": ("fp32", "bf16")}


def changed(key, value):
    section, *rest = key.split(".")
    names = {"optimizer": "SGD", "model": "mlp"}
    if not rest:
        return {section: value}
    return {section: {"name": names[section], "args": {rest[1]: value}} if len(rest) > 1 else {rest[0]: value}}


def variation(keys, values, seeds=(3, 4), budget=0.5):
    (key,) = keys
    variants = [
        Variant((value,), (place,), digits(plan={"epochs": 20}, **changed(key, value)))
        for place, value in enumerate(values)
    ]
    return Variation(keys, tuple(variants), 0, has_own=True, seeds=seeds, budget=budget)


def raced(asked, journal=None):
    return run_variation(asked, Observer(), journal or Journal())


@pytest.mark.short(1)
@pytest.mark.parametrize(
    "asked", [SIZES, DECAYS, DROPOUT, PRECISIONS], ids=["batch size", "weight decay", "dropout", "precision"]
)
@settings(max_examples=2, deadline=None)
@given(looks=st.lists(st.integers(1, 250), min_size=1, max_size=4))
def test_a_race_over_values_interrupted_anywhere_reads_what_one_that_was_not_reads(asked, looks):
    asked = variation(**asked)
    found, _ = interrupted(lambda journal: raced(asked, journal), looks)
    whole = raced(asked)
    assert found.readings == whole.readings
    assert found.pilot == whole.pilot


@pytest.mark.short(0)
def test_the_models_of_a_value_are_freed_as_soon_as_it_is_dropped(monkeypatch):
    """Counted are the trainers that are alive, by the batch size or decay of their workload."""
    asked, alive, trained = variation(DECAYS["keys"], (0.0, 0.01, 0.3, 3.0)), [], []
    take = _Lanes.take

    def watched(self, trial, segment, journal):
        take(self, trial, segment, journal)
        gc.collect()
        decays = {each.optimizer.param_groups[0]["weight_decay"] for each in gc.get_objects() if type(each) is Trainer}
        alive.append({place for place, variant in enumerate(asked.variants) if variant.values[0] in decays})
        trained.append(trial.value)

    monkeypatch.setattr(_Lanes, "take", watched)
    raced(asked)
    first = asked.first  # one of its models stands for all seeds
    for place, values in enumerate(alive):
        assert values <= {*trained[: place + 1], first}
    assert alive[trained.index(3)] > {3}
    assert 3 not in alive[-1]


def test_a_reading_is_that_of_a_run_trained_on_its_own_with_the_value():
    asked = variation(**DECAYS)
    value, probe = max(raced(asked).readings, key=lambda each: (each.value, each.probe.iterations))
    workload = asked.variants[value].workload
    with workload.on_device():
        trainer = Trainer(workload, asked.seeds[probe.seed])
        assert trainer.optimizer.param_groups[0]["weight_decay"] == 0.01
        trainer.average = RunningAverage(trainer.model)
        trainer.train(0, [probe.lr * min(1.0, (step + 1) / WARM_UP) for step in range(probe.iterations)])
        loss, metric = trainer.evaluate_average()
    assert (probe.loss, probe.metric) == (loss, metric)


def test_all_together_cost_no_more_than_the_budget_and_its_half_a_training_for_four_values():
    asked = variation(DECAYS["keys"], (0.0, 1e-4, 1e-3, 1e-2))
    record = raced(asked)
    assert record.samples <= asked.samples
    assert record.share <= asked.samples / (asked.base.plan_iterations * asked.base.batch_size)
    longer = Variation(**{**vars(asked), "budget": 2.0})
    assert longer.samples == 2 * asked.base.plan_iterations * asked.base.batch_size
