"""``kill -9`` at any moment: no file is torn, and the same command ends with the files of a run without kills."""

import json
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.torture.conftest import MIDDLE, RACE_STEP, STEP
from tests.torture.runs import LONG, NAME, assert_same, assert_whole, words

# One worker a core of the smallest machine that runs this.
WORKERS = 2
KILLED = -int(signal.SIGKILL)


class Toll:
    """Kills that are wanted, counted by all workers together."""

    def __init__(self, wanted):
        self.wanted = self.left = wanted
        self._lock = threading.Lock()

    def pay(self):
        with self._lock:
            self.left -= 1

    @property
    def paid(self):
        return self.left <= 0


class Executioner:
    """Starts the same command until it ends by itself, compares its files, and begins anew, until the toll is paid."""

    def __init__(self, zygote, reference, place, toll):
        self.zygote, self.reference, self.place, self.toll = zygote, reference, place, toll
        self.history, self.resumed = [], 0

    def work(self):
        number = 0
        while not self.toll.paid:
            number += 1
            self.history = []
            try:
                self.finish(self.place / str(number) / NAME)
            except BaseException as error:
                error.add_note(f"in {self.place / str(number)}: {self.history}")
                raise
            shutil.rmtree(self.place / str(number))

    def finish(self, folder):
        status = KILLED
        while status == KILLED:
            command = self.reference.words(folder, quiet=False)
            run = self.zygote.start(command) if self.toll.paid else self.attempt(command)
            status = run.wait()
            assert "Traceback" not in run.err
            assert "is damaged" not in run.err
            self.resumed += "resumed" in run.err
            self.history.append(status)
            if status == KILLED:
                self.toll.pay()
                assert_whole(folder)
        assert status == 0, run.err
        assert_same(folder, self.reference.files)


class AtRandomMoments(Executioner):
    def __init__(self, zygote, reference, place, toll, seed):
        super().__init__(zygote, reference, place, toll)
        self.random = np.random.default_rng(seed)

    def attempt(self, command):
        delay = float(self.random.uniform(0, self.reference.seconds))
        self.history.append(f"{delay:.3f} s")
        run = self.zygote.start(command)
        if not run.ends_within(delay):
            run.kill(signal.SIGKILL)
        return run


class AtRandomSteps(Executioner):
    """Only training is killed, and so nearly every start has something to go on from."""

    step, most = STEP, 300

    def __init__(self, zygote, reference, place, toll, seed):
        super().__init__(zygote, reference, place, toll)
        self.random = np.random.default_rng(seed)

    def attempt(self, command):
        step = int(self.random.integers(1, self.most))
        self.history.append(f"step {step}")
        return self.zygote.start(command, {"signal_at": [[self.step, step, int(signal.SIGKILL), 1]]})


class AtRandomStepsOfTheRace(AtRandomSteps):
    step, most = RACE_STEP, 250


class AtRandomWrites(Executioner):
    """Each event of a write is drawn before any is drawn again; which of its calls, at random."""

    def __init__(self, zygote, reference, place, toll, seed, events):
        super().__init__(zygote, reference, place, toll)
        self.random, self.events, self.drawn, self.tries = np.random.default_rng(seed), events, [], 0

    def attempt(self, command):
        self.tries += 1
        assert self.tries < 50 * len(self.events), "hardly any event happens"
        if not self.drawn:
            self.drawn = self.random.permutation(sorted(self.events)).tolist()
        event = self.drawn.pop()
        number = int(self.random.integers(1, self.events[event] + 1))
        self.history.append(f"{event} {number}")
        return self.zygote.start(command, {"kill_at_call": [event, number]})


def work(executioners):
    with ThreadPoolExecutor(len(executioners)) as pool:
        for done in [pool.submit(each.work) for each in executioners]:
            done.result()
    return sum(each.resumed for each in executioners)


def test_kills_at_any_moment_tear_no_file_and_change_no_result(zygote, reference, raced, tmp_path):
    toll, methods = Toll(1000 if LONG else 6), (reference, raced)
    kinds = [AtRandomMoments(zygote, each, tmp_path / each.method, toll, seed) for seed, each in enumerate(methods)]
    assert len(kinds) == WORKERS
    assert work(kinds) > toll.wanted / 50, "all begin anew"


@pytest.mark.short(0)
def test_kills_in_training_lose_little_and_change_no_result(zygote, reference, tmp_path):
    toll = Toll(300 if LONG else 8)
    kinds = [AtRandomSteps(zygote, reference, tmp_path / str(seed), toll, seed) for seed in range(WORKERS)]
    assert work(kinds) > toll.wanted / 2, "all begin anew"


def test_kills_in_a_race_lose_little_and_change_no_result(zygote, raced, tmp_path):
    assert raced.race["iterations"] > AtRandomStepsOfTheRace.most
    toll = Toll(200 if LONG else 6)
    kinds = [AtRandomStepsOfTheRace(zygote, raced, tmp_path / str(seed), toll, seed) for seed in range(WORKERS)]
    assert work(kinds) > toll.wanted / 2, "all begin anew"


@pytest.fixture
def events(zygote, reference, tmp_path):
    """Every event of a write, of a run and of one that goes on, and how often it happens."""
    counts = {}
    report = tmp_path / "events.json"
    for name, stop in (("whole", []), ("resumed", [[*MIDDLE, int(signal.SIGTERM), 1]]), ("resumed", [])):
        zygote.run(words(tmp_path / name / NAME), {"count_calls": str(report), "signal_at": stop})
        for event, number in json.loads(report.read_text()).items():
            counts[event] = max(number, counts.get(event, 0))
    return counts


def test_kills_at_any_system_call_of_a_write_tear_no_file_and_change_no_result(zygote, reference, events, tmp_path):
    assert len(events) > 50
    toll = Toll(250 if LONG else 6)
    kinds = [AtRandomWrites(zygote, reference, tmp_path / str(seed), toll, seed, events) for seed in range(WORKERS)]
    assert work(kinds) > toll.wanted / 20, "all begin anew"
