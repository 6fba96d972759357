"""Pictures: the right things in them, nothing overlapping, the same bytes for the same run."""

import dataclasses
import itertools
import math
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from unittest.mock import patch

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.text import Text
from PIL import Image

from clrtool.core.planning.make import make_plan
from clrtool.core.planning.plan import plan_from
from clrtool.core.racing.choose import choose
from clrtool.core.racing.probes import Entry, Probe
from clrtool.core.racing.race import next_run
from clrtool.core.racing.result import Race
from clrtool.core.reading.curve import Curve, SweepOutcome
from clrtool.core.reading.metric import LOSS
from clrtool.core.reading.paper import find_bounds
from clrtool.errors import ConfigError
from clrtool.report.plots import plot_comparison, plot_range_test, plot_schedules, save_figure
from clrtool.report.plots.style import ALT_HEADER, DARK, LIGHT, contrast, dark, drawn
from clrtool.report.records.comparison_file import COMPARISON
from clrtool.report.records.plan_file import plan_to_json
from clrtool.report.records.run import read_run


def texts(figure):
    return " | ".join(text.get_text() for text in figure.findobj(Text) if text.get_text())


def overlaps(figure, texts):
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    boxes = [text.get_window_extent(renderer) for text in texts]
    return [(a, b) for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]


def test_the_range_test_shows_both_bounds_the_verdict_and_every_seed(digits_run):
    record = read_run(digits_run)
    figure = plot_range_test(record, "digits")
    shown = texts(figure)
    for word in ("base_lr", "max_lr", "held-out accuracy", "training loss", record.bounds.verdict.word, "2 seeds"):
        assert word in shown
    top = figure.axes[0]
    assert sum(len(line.get_xdata()) == 11 for line in top.lines) == 4  # two seeds, their mean and the fit


@pytest.mark.parametrize("ratio", [1.05, 2, 30])
@pytest.mark.parametrize("place", [1.1e-3, 0.02, 0.9])
def test_the_labels_of_the_bounds_never_overlap_or_leave_the_picture(digits_run, ratio, place):
    record = read_run(digits_run)
    base_lr = place / ratio
    intervals = {"base_lr_interval": (base_lr / 1.2, base_lr * 1.2), "max_lr_interval": (place / 1.2, place * 1.2)}
    bounds = dataclasses.replace(record.bounds, base_lr=base_lr, max_lr=place, **intervals)
    figure = plot_range_test(dataclasses.replace(record, bounds=bounds), "digits")
    labels = [text for text in figure.axes[0].texts if "_lr" in text.get_text()]
    assert len(labels) == 2
    assert not overlaps(figure, [*labels, figure._suptitle])
    renderer = FigureCanvasAgg(figure).get_renderer()
    for label in labels:
        box = label.get_window_extent(renderer)
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1


def test_a_run_without_bounds_and_with_values_that_are_not_finite_is_drawn(digits_run, tmp_path):
    record = read_run(digits_run)
    broken = Curve(0, SweepOutcome.NOT_FINITE, [0, 5], [0, 0.1], [1e-3, 2e-3], [np.nan] * 2, [2.3, np.nan], [0.1, 0.1])
    sweep = dataclasses.replace(record.sweep, curves=(broken,))
    none = dataclasses.replace(record, sweep=sweep, bounds=find_bounds([broken], 100), plan=None)
    figure = plot_range_test(none, "broken")
    save_figure(figure, tmp_path / "a.png")
    assert "inconclusive" in texts(figure)


def test_a_hostile_title_is_shown_as_it_is(digits_run, tmp_path):
    figure = plot_range_test(read_run(digits_run), "$\\frac{$ \x1b[2J")
    save_figure(figure, tmp_path / "a.png")
    assert "\x1b" not in texts(figure)


def test_the_schedule_passes_through_every_peak_and_names_its_numbers():
    plan = make_plan(1e-3, 1e-2, 470, epochs=30)
    figure = plot_schedules({"digits": plan})
    x, y = figure.axes[0].lines[0].get_data()
    assert max(y) == 1e-2
    assert np.interp(plan.stepsize_epochs, x, y) == pytest.approx(1e-2)
    for word in ("base_lr\n0.001", "max_lr\n0.01", "triangular2", "4 cycles", "epoch", "iteration"):
        assert word in texts(figure)


DRAW = """
import sys
from clrtool.cli.main import main
out, *sources = sys.argv[1:]
for source in sources:
    for ending in ("png", "svg", "pdf", "html"):
        try:
            main(["plot", source, "-o", f"{out}/{source.replace('/', '-')}.{ending}"])
        except SystemExit as stop:
            assert not stop.code
"""


@pytest.mark.short(0)
def test_every_picture_and_report_has_the_same_bytes_in_two_processes(digits_run, race_run, tmp_path):
    from tests.report.test_comparison_file import comparison

    COMPARISON.write(tmp_path / "compared", comparison({"fixed": 0.9, "one_cycle": 0.95, "cosine": 0.96}))
    (tmp_path / "plan.json").write_text(plan_to_json(make_plan(1e-3, 1e-2, 47, policy="one_cycle")))
    found = []
    for hash_seed in ("1", "2"):
        out = tmp_path / hash_seed
        command = [sys.executable, "-c", DRAW, str(out), str(digits_run), str(race_run), "compared", "plan.json"]
        subprocess.run(command, env={"PYTHONHASHSEED": hash_seed}, cwd=tmp_path, check=True, capture_output=True)
        found.append({file.name: file.read_bytes() for file in out.iterdir()})
    assert Counter(name.rpartition(".")[2] for name in found[0]) == dict.fromkeys(
        ("png", "svg", "pdf", "html", "txt"), 4
    )
    assert found[0] == found[1]
    assert not any(b"CreationDate" in content or b"dc:date" in content for content in found[0].values())


def test_pictures_have_the_size_that_is_read_on_a_page(digits_run):
    for name, size in (("range_test.png", (1200, 960)), ("schedule.png", (1200, 600))):
        with Image.open(digits_run / name) as picture:
            assert picture.size == size


def test_another_ending_is_refused(digits_run, tmp_path):
    with pytest.raises(ConfigError, match=r"ends in .png, .svg, .pdf"):
        save_figure(plot_schedules({"a": make_plan(1e-3, 1e-2, 10)}), tmp_path / "a.bmp")


def schedules(*policies, **extra):
    return {policy: make_plan(1e-3, 1e-2, 47, epochs=32, policy=policy, **extra) for policy in policies}


def test_several_schedules_are_one_line_each_with_dots_at_the_ends_of_their_cycles():
    figure = plot_schedules(schedules("triangular2", "one_cycle", "cosine_restarts"))
    (axes,) = figure.axes
    lines = [line for line in axes.lines if line.get_linestyle() == "-"]
    assert [line.get_label() for line in lines] == ["triangular2", "one_cycle", "cosine_restarts"]
    assert len({line.get_color() for line in lines}) == 3
    dots = [line.get_xdata().tolist() for line in axes.lines if line.get_marker() == "o"]
    assert dots == [[8, 16, 24, 32]] * 2
    assert axes.get_xlabel() == "epoch (dots: ends of cycles)"
    assert [child.get_xlabel() for child in axes.child_axes] == ["iteration"]


def test_the_curve_in_the_picture_is_the_plan_peaks_and_all():
    plan = make_plan(1e-3, 1e-2, 47, epochs=400, policy="triangular")
    figure = plot_schedules({"a": plan})
    line = next(line for line in figure.axes[0].lines if line.get_linestyle() == "-")
    iterations = np.rint(line.get_xdata() * 47).astype(int)
    np.testing.assert_allclose(line.get_ydata(), plan.lr(iterations))
    assert np.sum(np.isclose(line.get_ydata(), 1e-2, rtol=1e-12)) >= plan.num_cycles


def test_a_momentum_that_moves_has_a_panel_of_its_own():
    figure = plot_schedules(schedules("triangular2", "one_cycle", momentum=(0.85, 0.95)))
    top, below = figure.axes
    assert (top.get_ylabel(), below.get_ylabel()) == ("learning rate", "momentum")
    assert len(below.lines) == 2
    assert below.lines[0].get_ydata().min() == pytest.approx(0.85)
    assert top.get_xlim() == below.get_xlim()
    assert len(plot_schedules(schedules("triangular2")).axes) == 1
    FigureCanvasAgg(figure).draw()
    assert top.get_position().height > 0.4
    assert below.get_position().height > 0.1


def test_the_axis_is_in_iterations_where_the_epochs_are_not_known():
    plan = plan_from("torch:OneCycleLR", {"max_lr": 0.1, "total_steps": 100, "cycle_momentum": False})
    (axes,) = plot_schedules({"a": plan}).axes
    assert axes.get_xlabel() == "iteration"
    assert axes.get_xlim() == (0, 100)
    assert not axes.child_axes


def test_more_schedules_than_colours_are_refused():
    plan = make_plan(1e-3, 1e-2, 47)
    with pytest.raises(ConfigError, match="room for 8 schedules, not 9"):
        plot_schedules({str(number): plan for number in range(9)})


def drawn_texts(figure):
    """All texts that are drawn, the numbers at the axes too, and their boxes."""
    seen, draw = {}, Text.draw

    def noted(text, renderer, *more, **options):
        if text.get_visible() and text.get_text().strip():
            seen[id(text)] = text
        return draw(text, renderer, *more, **options)

    renderer = FigureCanvasAgg(figure).get_renderer()
    with patch.object(Text, "draw", noted):
        figure.draw(renderer)
    return {text: text.get_window_extent(renderer) for text in seen.values()}


def with_bounds(record, base_lr, max_lr):
    spans = {"base_lr_interval": (base_lr / 1.2, base_lr * 1.2), "max_lr_interval": (max_lr / 1.2, max_lr * 1.2)}
    return dataclasses.replace(
        record, bounds=dataclasses.replace(record.bounds, base_lr=base_lr, max_lr=max_lr, **spans)
    )


def with_outcomes(record, *outcomes, **changes):
    """The record with a curve for each outcome, cut in half where it was stopped."""
    completed, (first, *_) = SweepOutcome.COMPLETED, record.sweep.curves
    points = first.points()
    ends = [len(points) if outcome is completed else max(2, len(points) // 2 + seed) for seed, outcome in
            enumerate(outcomes)]  # fmt: skip
    curves = tuple(Curve.from_points(seed, outcome, points[:end]) for seed, (outcome, end) in
                   enumerate(zip(outcomes, ends, strict=True)))  # fmt: skip
    return dataclasses.replace(record, sweep=dataclasses.replace(record.sweep, curves=curves, **changes))


def at_once(record):
    """Every seed broke with its second evaluation."""
    curves = tuple(
        Curve.from_points(seed, SweepOutcome.DIVERGED, record.sweep.curves[0].points()[:2]) for seed in range(3)
    )
    return dataclasses.replace(
        record, sweep=dataclasses.replace(record.sweep, curves=curves), bounds=find_bounds(curves, 100), plan=None
    )


def eight_policies(_):
    from tests.report.test_comparison_file import POLICIES, comparison

    return plot_comparison(comparison(dict.fromkeys(POLICIES, 0.9)), "W" * 200)


LONG_NAMES = [f"{'a very long name of a schedule ' * 3}{number}" for number in range(4)]
DONE, BROKE, DIVERGED = SweepOutcome.COMPLETED, SweepOutcome.BROKE, SweepOutcome.DIVERGED


def race_of(losses, first=2.4, budget=800, seeds=2):
    """A race over runs whose loss is a function of power and iterations."""
    entry, probes = Entry(-8, budget, seeds, 5000, 2.3, first), []
    while (run := next_run(entry, probes)) is not None:
        loss = losses(run.power, run.iterations)
        taken = run.iterations if math.isfinite(loss) else 1
        probes.append(Probe(*run, taken, loss, 0.5 if math.isfinite(loss) else None))
    return Race(entry, tuple(probes))


def bowl(best, above=math.inf):
    """Losses that fall to a level that rises with the distance from the best rate, infinite from a power on."""

    def loss(power, iterations):
        falling = 0.3 + 0.2 * abs(power - best) + 1.8 * math.exp(-iterations / 60)
        return math.inf if power >= above else falling

    return loss


def raced(record, race):
    """The record of a run as it is after a race."""
    bounds = choose(race)
    plan = None if bounds.max_lr is None else make_plan(bounds.base_lr, bounds.max_lr, 44)
    return dataclasses.replace(record, race=race, bounds=bounds, plan=plan)


RACES = {
    "ordinary": race_of(bowl(-6)),
    "broken above": race_of(bowl(-6, above=-4)),
    "exploded above": race_of(lambda power, iterations: 1e9 if power > -5 else bowl(-6)(power, iterations)),
    "best far below": race_of(bowl(-20)),
    "best far above": race_of(bowl(6)),
    "long": race_of(bowl(-6), budget=100_000),
    "one seed": race_of(bowl(-6), seeds=1),
    "nothing learned": race_of(lambda power, iterations: 2.29),
    "nothing finite": race_of(lambda power, iterations: math.inf, first=math.inf),
    "no run at all": race_of(bowl(-6), budget=5),
}
PICTURES = {
    **{f"race, {name}": lambda record, race=race: plot_range_test(raced(record, race), "digits")
       for name, race in RACES.items()},
    "race, long title": lambda record: plot_range_test(raced(record, RACES["ordinary"]), "W" * 200),
    "race, sweep of a loss that stopped": lambda record: plot_range_test(
        with_outcomes(raced(record, RACES["ordinary"]), BROKE, DIVERGED, metric=LOSS), "digits"),
    "ordinary": lambda record: plot_range_test(record, "digits"),
    "bounds at the ends": lambda record: plot_range_test(with_bounds(record, 1e-3, 1), "digits"),
    "bounds at the left": lambda record: plot_range_test(with_bounds(record, 1e-4, 1.001e-3), "digits"),
    "close bounds": lambda record: plot_range_test(with_bounds(record, 0.099, 0.1), "digits"),
    "long title": lambda record: plot_range_test(record, "W" * 200),
    "long numbers": lambda record: plot_range_test(
        dataclasses.replace(with_bounds(record, 1.23456e-5, 0.0123456), plan=make_plan(1e-5, 1e-2, 123_457)), "digits"
    ),
    "linear": lambda record: plot_range_test(with_outcomes(record, BROKE, DIVERGED, spacing="linear"), "digits"),
    "one seed": lambda record: plot_range_test(with_outcomes(record, BROKE), "digits"),
    "ten seeds": lambda record: plot_range_test(with_outcomes(record, *[DONE] * 9, DIVERGED), "digits"),
    "nothing stopped": lambda record: plot_range_test(with_outcomes(record, DONE, DONE), "digits"),
    "diverged at once": lambda record: plot_range_test(at_once(record), "digits"),
    "eight policies": eight_policies,
    "one schedule": lambda record: plot_schedules({"digits": record.plan}),
    "one long plan": lambda _: plot_schedules({"W" * 200: make_plan(1e-9, 1.1e-9, 123_457, epochs=2000)}),
    "four schedules": lambda _: plot_schedules(
        dict(zip(LONG_NAMES, schedules("triangular", "triangular2", "one_cycle", "cosine").values(), strict=True))
    ),
}  # fmt: skip


@pytest.mark.short(12)
@pytest.mark.parametrize("name", PICTURES)
def test_no_two_texts_of_a_picture_overlap_and_none_leaves_it(digits_run, name):
    figure = PICTURES[name](read_run(digits_run))
    boxes = drawn_texts(figure)
    assert len(boxes) > 15
    for (one, box), (other, another) in itertools.combinations(boxes.items(), 2):
        assert not box.padded(-0.5).overlaps(another.padded(-0.5)), (one, other)
    for text, box in boxes.items():
        assert figure.bbox.x0 <= box.x0, text
        assert box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0, text
        assert box.y1 <= figure.bbox.y1, text


def test_the_picture_of_a_race_has_a_line_for_each_horizon_the_constant_answer_and_the_sweep(race_run, digits_run):
    record = read_run(race_run)
    race, shown = record.race, plot_range_test(record, "digits")
    top, below = shown.axes
    expected = {}
    for probe in race.probes:
        if probe.seed == 0 and math.isfinite(probe.loss):
            expected.setdefault(probe.iterations, {})[probe.lr] = probe.loss
    drawn = [line for line in top.lines if line.get_marker() == "o"]
    labels = [f"after {horizon} iterations" for horizon in sorted(expected)]
    assert [line.get_label() for line in drawn] == labels
    for line, horizon in zip(drawn, sorted(expected), strict=True):
        assert dict(zip(*line.get_data(), strict=True)) == expected[horizon]
        assert list(line.get_xdata()) == sorted(expected[horizon])
    assert [line.get_alpha() for line in drawn] == sorted(line.get_alpha() for line in drawn), "the longer the darker"
    (constant,) = (line for line in top.lines if line.get_label() == "constant answer")
    assert set(constant.get_ydata()) == {race.entry.constant}
    assert any(np.array_equal(line.get_xdata(), record.sweep.curves[0].lr) for line in below.lines)
    left, right = top.get_xlim()
    assert left < min(probe.lr for probe in race.probes)
    assert right > max(*(probe.lr for probe in race.probes), record.sweep.end_lr)
    rates = len({probe.power for probe in race.probes})
    for word in ("base_lr", "max_lr", "held-out loss of short runs", f"a race of {rates} rates", record.bounds.verdict.word,
                 "accuracy", *labels):  # fmt: skip
        assert word in texts(shown)
    assert "race" not in texts(plot_range_test(read_run(digits_run), "digits"))


def test_losses_that_exploded_flatten_no_other_and_infinite_ones_are_no_dots(digits_run):
    record = read_run(digits_run)
    for name in ("exploded above", "broken above"):
        top = plot_range_test(raced(record, RACES[name]), "digits").axes[0]
        low, high = top.get_ylim()
        losses = [probe.loss for probe in RACES[name].probes if probe.loss < 10]
        assert low < min(losses)
        assert 2.3 < high < 2.3 + (2.3 - min(losses))
    dots = [line for line in top.lines if line.get_marker() == "o"]
    assert max(max(line.get_xdata()) for line in dots) == 2**-5


@pytest.mark.parametrize("outcomes", [(DONE, DONE), (DONE, BROKE), (BROKE, DIVERGED)])
def test_what_comes_after_a_stop_is_hatched_and_named_when_and_only_when_a_seed_was_stopped(digits_run, outcomes):
    record = with_outcomes(read_run(digits_run), *outcomes)
    figure = plot_range_test(record, "digits")
    stopped = [curve.lr[-1] for curve in record.sweep.curves if curve.outcome is not DONE]
    hatched = [patch for axes in figure.axes for patch in axes.patches if patch.get_hatch()]
    assert len(hatched) == (2 if stopped else 0)
    assert all(patch.get_x() == min(stopped) for patch in hatched)
    assert (f"{len(stopped)} of 2 seeds stopped at" in texts(figure)) == bool(stopped)


def test_a_sweep_that_ends_with_its_stop_still_has_a_hatched_part_to_see(digits_run):
    record = with_outcomes(read_run(digits_run), BROKE)
    record = dataclasses.replace(
        record, sweep=dataclasses.replace(record.sweep, end_lr=float(record.sweep.curves[0].lr[-1]))
    )
    figure = plot_range_test(record, "digits")
    FigureCanvasAgg(figure).draw()
    (patch,) = [patch for patch in figure.axes[0].patches if patch.get_hatch()]
    assert patch.get_window_extent().width > 0.05 * figure.axes[0].bbox.width


def test_the_title_says_what_to_train_with_and_the_line_below_how_far_to_trust_it(digits_run, race_run):
    for run in (digits_run, race_run):
        record = read_run(run)
        figure, bounds, plan = plot_range_test(record, "digits"), record.bounds, record.plan
        between = f"{bounds.base_lr:.3g} to {bounds.max_lr:.3g}"
        decision = f"digits: train with {plan.policy}, {between}, stepsize {plan.stepsize} iterations"
        assert figure.get_suptitle() == decision
        assert f"Verdict {bounds.verdict.word}: " in figure.get_supxlabel()
        assert "\n" not in figure.get_suptitle() + figure.get_supxlabel()


@pytest.mark.parametrize(("low", "high"), [(1e-5, 0.1), (0.1, 50), (1e-5, 50)])
def test_both_bounds_are_drawn_wherever_they_lie(digits_run, race_run, low, high):
    for run in (digits_run, race_run):
        record = read_run(run)
        bounds = dataclasses.replace(
            record.bounds, base_lr=low, max_lr=high, base_lr_interval=(low, low), max_lr_interval=(high, high)
        )
        axes = plot_range_test(dataclasses.replace(record, bounds=bounds), "digits").axes
        for panel in axes:
            left, right = panel.get_xlim()
            assert left < low
            assert high < right
            drawn = [line.get_xdata()[0] for line in panel.lines if len(set(line.get_xdata())) == 1]
            assert {low, high} <= set(drawn)
        labels = [text.get_text() for text in axes[0].texts if "_lr" in text.get_text()]
        assert sorted(label.split()[0] for label in labels) == ["base_lr", "max_lr"]


def test_what_a_picture_shows_in_words_is_in_it_and_beside_it(digits_run, tmp_path):
    figure = plot_range_test(read_run(digits_run), "<digits> & $more$")
    for ending in ("png", "svg", "pdf"):
        save_figure(figure, tmp_path / f"a.{ending}")
    beside = (tmp_path / "a.alt.txt").read_text()
    assert beside.startswith(ALT_HEADER + "<digits> & $more$: held-out accuracy")
    words = beside.removeprefix(ALT_HEADER).strip()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.text["Description"] == words
        assert picture.text["Title"].startswith("<digits> & $more$: train with")
    inside = [element.text or "" for element in ET.parse(tmp_path / "a.svg").iter()]  # noqa: S314
    assert words in inside
    assert any(each.startswith("<digits> & $more$: train with") for each in inside)
    pdf = (tmp_path / "a.pdf").read_bytes()
    assert b"/Subject" in pdf
    assert b"/Title" in pdf


def test_a_file_of_somebody_else_in_the_place_of_the_words_stays(digits_run, tmp_path, cli):
    (tmp_path / "a.alt.txt").write_text("mine")
    refused = cli("plot", digits_run, "-o", tmp_path / "a.svg")
    assert refused.code == 2
    assert "a.alt.txt: clrtool did not write it" in refused.err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.alt.txt": "mine"}


@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_text_has_a_contrast_of_4_5_with_its_paper(palette):
    assert {contrast(color, palette.paper) >= 4.5 for color in (palette.ink, palette.grey)} == {True}


def test_on_dark_paper_everything_is_drawn_in_colours_that_can_be_seen(digits_run):
    record = read_run(digits_run)
    with dark():
        figures = [plot_range_test(each, "digits") for each in (record, raced(record, RACES["ordinary"]))]
        figures += [plot_schedules({"digits": record.plan}), eight_policies(record)]
        for figure in figures:
            for text in drawn_texts(figure):
                assert contrast(to_hex(text.get_color()), DARK.paper) >= 4.5, text
            for line in figure.findobj(Line2D):
                assert contrast(to_hex(line.get_color()), DARK.paper) >= 3, line
            assert b"#000000" not in drawn(figure, ".svg")
    assert drawn(plot_range_test(record, "digits"), ".svg") == drawn(plot_range_test(record, "digits"), ".svg")
