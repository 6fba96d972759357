"""What pictures show in words: the numbers of the record, few sentences, no name that hides or commands."""

import dataclasses
import re

import numpy as np
import pytest

from clrtool.core.planning.make import make_plan
from clrtool.core.reading.curve import Curve, SweepOutcome
from clrtool.core.reading.metric import LOSS
from clrtool.core.reading.paper import find_bounds
from clrtool.report.records.run import read_run
from clrtool.report.text.alt_text import comparison_alt, race_alt, range_test_alt, schedules_alt
from tests.report.test_comparison_file import comparison

HOSTILE = "\x1b[2J<script>\u202e\n::error::" + "x" * 500


def sentences(text):
    return [part for part in re.split(r"\. ", text) if part]


def made_up(record, shape, metric=None):
    """The record with one curve of a shape, over its learning rates."""
    lr = np.geomspace(1e-3, 1, 61)
    values = np.interp(np.log10(lr), *zip(*shape, strict=True))
    curve = Curve(0, SweepOutcome.BROKE, np.arange(61) * 1000, np.arange(61) * 1.0, lr, values, values, values)
    sweep = dataclasses.replace(record.sweep, curves=(curve,), metric=metric or record.sweep.metric)
    return dataclasses.replace(record, sweep=sweep, bounds=find_bounds([curve], 1000, metric=sweep.metric))


def test_the_words_of_a_range_test_say_how_the_curve_goes(digits_run):
    shape = [(-3, 0.1), (-2.5, 0.1), (-2, 0.9), (-1, 0.9), (-0.5, 0.1), (0, 0.1)]
    words = range_test_alt(made_up(read_run(digits_run), shape), "digits")
    course = re.search(r"rises from ([\d.]+) at ([\d.]+) to ([\d.]+) at ([\d.]+) and breaks at ([\d.]+)", words)
    first, at, best, peak, breaks = map(float, course.groups())
    assert (first, at, best) == (0.1, 0.001, 0.9)
    assert 0.01 <= peak <= 0.1
    assert breaks == pytest.approx(10 ** (-1 + 0.5 * 0.35), rel=0.1)
    assert "stopped at 1." in words


def test_the_words_of_a_race_say_how_many_rates_ran_and_what_the_best_reached(race_run):
    record = read_run(race_run)
    words, probes = race_alt(record, record.race, "digits"), record.race.probes
    longest = max(probe.iterations for probe in probes)
    best = min((probe for probe in probes if probe.iterations == longest), key=lambda probe: probe.loss)
    rates = {probe.lr for probe in probes}
    assert f"{len(rates)} rates from {min(rates):.2g} to {max(rates):.2g}" in words
    assert f"after {longest} iterations {best.lr:.2g} is lowest with {best.loss:.3g}" in words
    assert f"a constant answer has {record.race.entry.constant:.3g}" in words
    assert f"{record.bounds.base_lr:.3g} to {record.bounds.max_lr:.3g}, stepsize" in words
    assert f"verdict {record.bounds.verdict.word}: " in words


def test_a_loss_falls_and_what_never_learns_stays(digits_run):
    record = read_run(digits_run)
    falling = range_test_alt(made_up(record, [(-3, 2.3), (-2, 0.5), (-1, 0.5), (0, 2.3)], LOSS), "digits")
    assert "It falls from 2.3 at 0.001 to 0.5 at" in falling
    flat = dataclasses.replace(made_up(record, [(-3, 0.1), (0, 0.1)]), plan=None)
    assert "It stays at 0.1" in range_test_alt(flat, "digits")
    assert "Verdict inconclusive" in range_test_alt(flat, "digits")


def test_the_words_of_a_schedule_have_its_peaks():
    plan = make_plan(1e-3, 1e-2, 47, epochs=32)
    words = schedules_alt({"digits": plan})
    peaks = re.search(r"the peaks at (.*)\.$", words)[1].split(", ")
    ups = [plan.stepsize * (2 * cycle + 1) for cycle in range(4)]
    assert peaks == [f"{lr:.3g}" for lr in plan.lr(ups)]
    assert "over 32 epochs" in words
    assert "each cycle with its peak at 0.01" in schedules_alt({"a": make_plan(1e-3, 1e-2, 47, policy="triangular")})
    assert "2 schedules against epochs: a, triangular2 between" in schedules_alt({"a": plan, "b": plan})


def test_the_words_of_a_comparison_rank_what_was_reached():
    words = comparison_alt(comparison({"fixed": 0.9, "one_cycle": 0.95, "cosine": 0.8}, broken=("cosine",)), "digits")
    assert re.search(r"one_cycle 0\.95\d*, fixed 0\.90\d*, cosine not finite\.", words)


def test_the_words_are_few_sentences_in_one_line_whatever_the_names(digits_run, race_run):
    record, raced = read_run(digits_run), read_run(race_run)
    for words in (
        range_test_alt(record, HOSTILE),
        race_alt(raced, raced.race, HOSTILE),
        schedules_alt({HOSTILE: record.plan}),
        schedules_alt({HOSTILE: record.plan, "b": record.plan}),
        comparison_alt(comparison({"fixed": 0.9, "cosine": 0.8}), HOSTILE),
    ):
        assert words.isprintable()
        assert 1 <= len(sentences(words)) <= 3
        assert len(words) < 600
        assert "::" not in words
