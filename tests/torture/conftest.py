"""What the torture shares: a process to fork runs from, and the files of a run that nobody interrupts."""

import os
import shutil
import signal
import time

import pytest

from tests.torture.runs import FILES, NAME, Zygote, contents, words

# One step of training. A run takes some 980: up to 100 of a scout, then 300 a seed, each evaluated 54 times.
STEP = "clrtool.engine.training.workload:Workload.gradients"
MIDDLE = [STEP, 560]


@pytest.fixture(scope="session")
def zygote(tmp_path_factory):
    """Starts runs without importing torch for each of them."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    zygote = Zygote(tmp_path_factory.mktemp("zygote"))
    yield zygote
    zygote.close()


class Reference:
    def __init__(self, folder, seconds):
        self.folder, self.seconds, self.files = folder, seconds, contents(folder)


@pytest.fixture(scope="session")
def reference(zygote, tmp_path_factory):
    """A run that was not interrupted."""
    for name in ("first", "second"):
        folder, begin = tmp_path_factory.mktemp(name) / NAME, time.monotonic()
        run = zygote.run(words(folder))
        assert run.status == 0, run.err
        assert "resumed" not in run.err
        found = Reference(folder, time.monotonic() - begin)
        assert set(found.files) == FILES
    assert found.files == contents(tmp_path_factory.getbasetemp() / "first0" / NAME)
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
