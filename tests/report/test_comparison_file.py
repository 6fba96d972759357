"""A comparison on disk and in a picture: read back as it was, drawn with every policy in its colour and place."""

import dataclasses
import io
import math

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from clrtool.core.reading.curve import Point
from clrtool.core.results.candidates import candidate_plan
from clrtool.core.results.comparison import BoundsFrom, Candidate, Comparison, Training
from clrtool.report.plots import plot_comparison, save_figure
from clrtool.report.plots.style import LIGHT, contrast
from clrtool.report.records.comparison_file import COMPARISON, comparison_to_json
from clrtool.report.text.comparison_table import comparison_table
from tests.report.test_plots import overlaps, texts

POLICIES = ("fixed", "triangular", "triangular2", "exp_range", "one_cycle", "cosine", "linear", "step")


def training(seed, final, broken=False):
    points = [Point(44 * i, float(i), 0.1, 1 / i, 1 / i, final * (1 - 0.5**i)) for i in range(1, 9)]
    if broken:
        points[4:] = [Point(200, 200 / 44, 0.15, math.inf, math.nan, math.nan)]
    return Training(seed, tuple(points), 0.5 + seed)


def comparison(finals, broken=()):
    candidates = tuple(
        Candidate(
            name,
            candidate_plan(name, 0.02, 0.2, 44, epochs=8),
            tuple(training(seed, final + seed / 200, broken=name in broken and seed == 1) for seed in range(3)),
        )
        for name, final in finals.items()
    )
    return Comparison(
        candidates=candidates,
        bounds=BoundsFrom(0.02, 0.2, "runs/digits", 12.5),
        iterations=352,
        iterations_per_epoch=44,
        heldout_samples=359,
        warnings=("a warning",),
        environment={"torch": "2"},
    )


def assert_same(one, other):
    assert comparison_to_json(one) == comparison_to_json(other)
    for mine, yours in zip(one.candidates, other.candidates, strict=True):
        assert (mine.name, mine.plan, mine.engine) == (yours.name, yours.plan, yours.engine)
        for first, second in zip(mine.trainings, yours.trainings, strict=True):
            np.testing.assert_array_equal(np.array(first.points), np.array(second.points))


@pytest.mark.parametrize("broken", [(), ("cosine",)])
def test_a_comparison_is_read_back_as_it_was_written(tmp_path, broken):
    record = comparison({"fixed": 0.9, "cosine": 0.95}, broken)
    COMPARISON.write(tmp_path, record)
    assert_same(COMPARISON.read(tmp_path), record)


@pytest.mark.parametrize(
    "finals", [(0.9,) * 8, tuple(np.linspace(0.1, 0.9, 8)), (0.9, 0.9001, 0.2, 0.9002, 0.2, 0.5, 0.9, 0.2)]
)
def test_the_names_beside_the_lines_never_overlap_and_have_the_colours_of_their_policies(finals):
    figure = plot_comparison(comparison(dict(zip(POLICIES, finals, strict=True)), broken=("linear",)), "digits")
    labels = [text for text in figure.axes[0].texts if text.get_text().split()[0] in POLICIES]
    assert [label.get_text().split()[0] for label in labels] == list(POLICIES)
    lines = [line.get_color() for line in figure.axes[0].lines if len(line.get_xdata()) > 2]
    assert lines == list(LIGHT.curves)
    for label, color in zip(labels, lines, strict=True):
        assert contrast(label.get_color(), LIGHT.paper) >= 4.5
        assert label.get_color() == color.lower() or contrast(color, LIGHT.paper) < 4.5
    assert not overlaps(figure, [*labels, figure._suptitle])
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [label.get_window_extent(renderer) for label in labels]
    assert all(box.x1 <= figure.bbox.x1 and box.y0 >= 0 for box in boxes)


def test_the_picture_tells_the_target_the_verdict_and_what_broke():
    shown = texts(plot_comparison(comparison({"fixed": 0.9, "cosine": 0.95}, broken=("cosine",)), "digits"))
    for word in ("target 0.9015", "cosine not finite", "fixed alone kept its loss finite", "3 seeds", "learning rate"):
        assert word in " ".join(shown.split())


def test_rates_far_apart_are_drawn_on_a_logarithmic_axis():
    record = comparison({"fixed": 0.9, "cosine": 0.95})
    assert plot_comparison(record, "digits").axes[1].get_yscale() == "linear"
    low = dataclasses.replace(record.candidates[0], plan=candidate_plan("fixed", 1e-4, 1e-3, 44, epochs=8))
    far = dataclasses.replace(record, candidates=(low, record.candidates[1]))
    assert plot_comparison(far, "digits").axes[1].get_yscale() == "log"


def test_the_same_comparison_gives_the_same_picture(tmp_path):
    record = comparison({"fixed": 0.9, "cosine": 0.95})
    for name in ("a.png", "b.png"):
        save_figure(plot_comparison(record, "digits"), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_table_names_no_time_where_none_was_kept_and_hides_no_control_character():
    from rich.console import Console

    record = comparison({"fixed": 0.9, "cosine": 0.95}, broken=("cosine",))
    for timed in (True, False):
        kept = [dataclasses.replace(each, trainings=tuple(dataclasses.replace(t, seconds=t.seconds if timed else None) for t in each.trainings))
                for each in record.candidates]  # fmt: skip
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(comparison_table(dataclasses.replace(record, candidates=tuple(kept)), "a\x1b[2Jb"))
        text = console.export_text()
        assert (" s " in text) == timed
        assert "\\x1b[2Jb" in text
        assert "not finite in 1 of 3" in " ".join(text.split())
