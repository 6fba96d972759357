"""What the torture shares: the files of runs that nobody interrupts."""

import json
import shutil
import signal
import time

import pytest

from tests.conftest import LONG
from tests.torture.runs import FILES, NAME, contents, words

# One step of training. By the paper's method a run takes some 450: up to 100 of a scout, then 116 a seed, each
# evaluated 35 times.
STEP = "clrtool.engine.training.workload:Workload.gradients"
MIDDLE = [STEP, 270]
# One step of a race, and of nothing else. It takes some 370, about 220 of them with its first seed, and has 18 readings.
RACE_STEP = "clrtool.engine.training.average:RunningAverage.update"


class Reference:
    def __init__(self, folder, seconds, method):
        self.folder, self.seconds, self.method, self.files = folder, seconds, method, contents(folder)

    def words(self, folder, *more, quiet=True):
        """The command that has to come to the same files in another folder."""
        return words(folder, *more, quiet=quiet, method=self.method)


def _uninterrupted(zygote, tmp_path_factory, method):
    """A run that is held against a second one in the long form; in the short one test_forks.py has such a pair."""
    found = []
    for name in ("first", "second")[: 1 + LONG]:
        folder, begin = tmp_path_factory.mktemp(f"{name}-{method}") / NAME, time.monotonic()
        run = zygote.run(words(folder, method=method))
        assert run.status == 0, run.err
        assert "resumed" not in run.err
        found.append(Reference(folder, time.monotonic() - begin, method))
        assert set(found[-1].files) == FILES
    assert found[0].files == found[-1].files
    return found[-1]


@pytest.fixture(scope="session")
def reference(zygote, tmp_path_factory):
    """A run that was not interrupted, by the paper's method: seed after seed is swept."""
    return _uninterrupted(zygote, tmp_path_factory, "paper")


@pytest.fixture(scope="session")
def raced(zygote, tmp_path_factory):
    """The same with a race after a short sweep."""
    found = _uninterrupted(zygote, tmp_path_factory, "race")
    found.race = json.loads(found.files["result.json"])["race"]
    return found


@pytest.fixture(scope="session")
def _interrupted(zygote, reference, tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted") / NAME
    run = zygote.run(words(folder), {"signal_at": [[*MIDDLE, int(signal.SIGTERM), 1]]})
    assert run.status == 128 + signal.SIGTERM, run.err
    assert len(list((folder / "checkpoint").glob("*.pt"))) == 2
    return folder


@pytest.fixture
def interrupted(_interrupted, tmp_path):
    """A run that was stopped in the middle of its second seed; this test's own."""
    return shutil.copytree(_interrupted, tmp_path / "interrupted" / NAME)
