"""The example notebook runs from top to bottom, and shows what it shows in the repository."""

import copy
import json
import re

import pytest

from tests.notebook import NOTEBOOK, run


@pytest.fixture(scope="module")
def cells():
    return list(run(copy.deepcopy(json.loads(NOTEBOOK.read_text()))))


def words(outputs):
    """What is shown, without numbers, which differ in another torch on another processor, and without pictures."""
    shown = ["".join(each["text"] if "text" in each else each["data"]["text/plain"]) for each in outputs]
    return [word for text in shown for word in re.findall(r"[a-z_]{3,}", text)]


def test_every_cell_shows_what_it_shows_in_the_repository(cells):
    for cell, count, outputs in cells:
        assert cell["execution_count"] == count
        assert words(outputs) == words(cell["outputs"])


def test_the_range_test_is_shown_as_a_table_and_a_picture(cells):
    (html,) = [
        each["data"]["text/html"] for _, _, outputs in cells for each in outputs if "text/html" in each.get("data", {})
    ]
    assert "<table>" in "".join(html)
    assert "data:image/png;base64," in "".join(html)


def test_the_network_that_follows_the_plan_has_learned(cells):
    text = "".join("".join(each.get("text", [])) for _, _, outputs in cells for each in outputs)
    assert float(re.findall(r"held-out accuracy ([\d.]+)", text)[-1]) > 0.88
