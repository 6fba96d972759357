"""Curves of others: what is read, and what is said of a file that is none."""

import csv
import math

import pytest

from clrtool.core.reading.metric import ACCURACY, LOSS
from clrtool.errors import ConfigError
from clrtool.report.records.curve_file import read_curves

HILL = [0.1, 0.1, 0.3, 0.7, 0.9, 0.9, 0.9, 0.5, 0.1, 0.1]


def rows(values=HILL, header="lr,acc"):
    return header + "\n" + "".join(f"{1e-3 * 2**i},{value}\n" for i, value in enumerate(values))


def read(tmp_path, text):
    file = tmp_path / "curve.csv"
    file.write_text(text, encoding="utf-8")
    return read_curves(file)


def test_lr_and_acc_are_read_as_a_slow_sweep_of_one_seed(tmp_path):
    found = read(tmp_path, rows())
    assert (len(found.curves), found.metric, found.timed) == (1, ACCURACY, False)
    assert found.curves[0].metric.tolist() == HILL


def test_iterations_seeds_and_other_names_are_known_by_their_header_capitals_and_blanks_aside(tmp_path):
    text = "Seed, Step, LR, Val_Acc\n" + "".join(
        f"{s},{i},{1e-3 * 2**i},{a}\n" for s in (3, 4) for i, a in enumerate(HILL)
    )
    found = read(tmp_path, text)
    assert [curve.seed for curve in found.curves] == [3, 4]
    assert found.timed


def test_accuracies_in_per_cent_are_shares(tmp_path):
    assert read(tmp_path, rows([100 * value for value in HILL])).curves[0].metric[4] == pytest.approx(0.9)


def test_a_dead_seed_in_per_cent_is_no_share(tmp_path):
    text = "seed,lr,acc\n" + "".join(
        f"{s},{2**i},{a}\n" for s, top in ((0, 90), (1, 0.9)) for i, a in enumerate([0.5, top, top])
    )
    assert read(tmp_path, text).curves[1].metric.max() == pytest.approx(0.009)


def test_without_accuracies_the_loss_is_read_and_an_empty_cell_is_a_value_that_was_not_finite(tmp_path):
    found = read(tmp_path, rows([2.3, 2.0, 1.0, ""], header="lr,test_loss"))
    assert found.metric is LOSS
    assert math.isnan(found.curves[0].metric[-1])


def test_a_run_of_clrtool_is_such_a_file(tmp_path, digits_run):
    found = read_curves(digits_run / "curve.csv")
    assert [curve.seed for curve in found.curves] == [0, 1]
    with (digits_run / "curve.csv").open() as file:
        assert found.curves[0].metric.tolist() == [float(row["accuracy"]) for row in csv.DictReader(file)][:11]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs the columns lr, and accuracy"),
        ("rate,acc\n1,2\n", "it has rate, acc"),
        ("lr,acc\n1,0.1\n2,x\n3,0.3\n", "curve.csv:3: not a row of numbers: '2,x'"),
        ("lr,acc\n1\n", "curve.csv:2: not a row"),
        ("seed,lr,acc\nnan,1,0.1\n", "curve.csv:2: not a row"),
        ("lr,acc\n1,0.1\n2,0.2\n", "at least 3 rows"),
        ("lr,acc\n3,0.1\n2,0.2\n1,0.3\n", "lr must not decrease"),
        (
            "seed,lr,acc\n0,1,.1\n0,2,.2\n1,10,.1\n1,20,.2\n",
            "seeds 1 and 0 were not swept over the same learning rates",
        ),
        ("lr,acc\n1,\n2,\n3,\n", "the first value must be finite"),
        ("lr,acc\n1,-1\n2,0.2\n3,0.3\n", "a share from 0 to 1"),
        ("lr,acc\n1,\n2,0.2\n3,0.3\n", "the first value must be finite"),
        ("lr,acc\n1,0.1\ninf,0.2\ninf,0.3\n", "lr must be finite"),
    ],
)
def test_a_file_that_is_no_curve_says_why(tmp_path, text, message):
    with pytest.raises(ConfigError, match=r"curve\.csv") as error:
        read(tmp_path, text)
    assert message in str(error.value)
