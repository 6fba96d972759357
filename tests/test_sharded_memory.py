"""What a rank holds of a model that all share falls as one over their number, by the formula of the guide's page."""

import json
import re
from pathlib import Path

import pytest

from tests.benchmarks.sharded_memory import SIZES, gathered_bytes, kept_bytes
from tests.ranks import ended, start

ROOT = Path(__file__).parents[1]


@pytest.mark.short(0)
@pytest.mark.parametrize("world", [2, 4])
def test_a_rank_holds_its_share_of_what_the_formula_says_and_gathers_no_more_than_that(world):
    codes, printed = ended(start(world, "-W", "ignore", "-m", "tests.benchmarks.sharded_memory", *SIZES[0], cwd=ROOT))
    assert codes == [0] * world, printed
    found = [json.loads(out) for out, _ in printed]
    parameters, block, rest = found[0]["layout"]
    everything = kept_bytes(parameters, 1)
    assert sum(each["kept"] for each in found) == pytest.approx(everything, rel=0.02)  # and what goes with a batch
    for each in found:
        assert each["kept"] == pytest.approx(everything / world, rel=0.1)  # rows are not always shared evenly
        assert each["kept"] < each["peak"] < kept_bytes(parameters, world) + gathered_bytes(block, rest)


def test_the_page_tells_what_the_formula_comes_to_for_seven_billion_parameters():
    page = " ".join((ROOT / "clrtool/guide/many-gpus.md").read_text(encoding="utf-8").split())
    block, rest = (
        float(number) * 1e6 for number in re.search(r"blocks of (\d+) million and (\d+) million", page).groups()
    )
    found = re.search(
        r"takes ([\d.]+) GB on each of 64 GPUs, ([\d.]+) GB for each paused run, and at most ([\d.]+) GB", page
    )
    one, paused = (kept_bytes(7e9, 64, paused=number) for number in (0, 1))
    expected = one, paused - one, gathered_bytes(block, rest)
    assert [float(number) for number in found.groups()] == pytest.approx([each / 1e9 for each in expected], rel=5e-3)
