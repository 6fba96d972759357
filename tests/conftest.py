"""What the tests share: small runs, made once, and the command line in this process."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from clrtool.cli.main import main
from tests import forks
from tests.gpu.dry import Gpu, uncaptured
from tests.sketch import instead_of_drawing

# What makes the tests of kills, signals, damage and the like try all that they have, an hour long on two cores.
LONG = bool(os.environ.get("CLRTOOL_TORTURE"))
# On a busy machine of two cores an example may take long without being slow.
settings.register_profile("patient", deadline=None, max_examples=100 if LONG else 25)
settings.load_profile("patient")

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"

# Half a second of training, once torch is imported.
QUICK = ["sweep.epochs=1", "sweep.evaluations=10", "sweep.start_lr=1e-3", "sweep.end_lr=1", "--seeds", "2", "-q"]


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


def as_version_1(values):
    """The values of a result as the first version wrote them, without hashes, so that a test may change them."""
    return {
        name: value for name, value in values.items() if "sha256" not in name or name.startswith(("config", "data"))
    } | {"schema_version": 1}


# The files that take longest, in this order: handed out first, so that at the end no process waits for another.
LONGEST = ("test_program_ranks", "test_executors", "test_signals", "test_frameworks", "test_printed_commands",
           "test_locks", "test_ranks", "test_framework_ranks", "test_readme", "test_foreign_code", "test_remedies",
           "test_floors", "test_kills", "test_exits", "test_journal", "test_plots", "test_forks", "test_sources",
           "test_capture", "test_race_on_graph", "test_failing_calls", "test_distributed", "test_vary_command",
           "test_spread_checkpoints", "test_gpu_command", "test_programs", "test_full_disks", "test_compare_command",
           "test_failures", "test_workloads", "test_tensorboard", "test_hostile_configs", "test_losses", "test_commands",
           "test_damaged_checkpoints", "test_vary", "test_processes", "test_doctor")  # fmt: skip


def pytest_addoption(parser):
    parser.addoption(
        "--gpu-on", choices=("cuda", "cpu"), default="cuda", help="cpu: the tests for a GPU, all but what it alone has"
    )


def pytest_configure(config):
    """Hide the GPUs from all tests but those for them: what a test expects to the byte is what a CPU computes."""
    if config.option.markexpr == "gpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, at the first product of matrices
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(config, items):
    """Leave out what the short form leaves to the long one, and hand out the files that take longest first."""
    for item in items:
        has_examples = getattr(getattr(item, "function", None), "is_hypothesis_test", False)
        if item.path.parent.name == "torture" or has_examples:
            item.add_marker("long")
    if not LONG:
        left_out = left_to_the_long_form(items)
        items[:] = [item for item in items if item.nodeid not in left_out]
        config.hook.pytest_deselected(items=[*left_out.values()])
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def pytest_collection_finish():
    """What is imported by now stays: the garbage collector need not look through it again, an eighth of the time."""
    gc.set_threshold(20_000, 10, 10)
    gc.collect()
    gc.freeze()


def left_to_the_long_form(items):
    """The cases of tests of many but for a few, spread evenly over them."""
    tests = {}
    for item in items:
        if (marker := item.get_closest_marker("short")) is not None:
            tests.setdefault((item.path, item.originalname, marker.args[0]), []).append(item)
    left_out = {}
    for (*_, number), cases in tests.items():
        kept = {case.nodeid for case in spread_evenly(cases, number)}
        left_out |= {case.nodeid: case for case in cases if case.nodeid not in kept}
    return left_out


def spread_evenly(cases, number):
    """So many of some cases, from the first on."""
    return [cases[len(cases) * place // number] for place in range(number)]


def pytest_runtest_setup(item):
    if (marker := item.get_closest_marker("gpu")) is None:
        return
    import torch

    if item.config.option.gpu_on == "cpu":
        if "gpu" not in item.fixturenames:
            pytest.skip("calls what CUDA alone has")
    elif torch.cuda.device_count() < (needed := marker.args[0] if marker.args else 1):
        pytest.skip(f"needs CUDA, {needed} of it: pytest -m gpu")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Start every test in an empty folder: what lies where pytest was started, a demo's runs say, is none of its business."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def is_drawn(request):
    """Whether the pictures of a test are drawn, not sketched."""
    return request.node.get_closest_marker("drawn") is not None


@pytest.fixture
def cli(capsys, monkeypatch, is_drawn):
    """Call the command line in this process."""
    if not is_drawn:
        instead_of_drawing(monkeypatch.setattr)

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Result(stop.value.code or 0, printed.out, printed.err)

    return call


@pytest.fixture
def process(zygote, is_drawn):
    """Call the command line in a process of its own, forked by the zygote."""

    def call(*arguments, cwd="."):
        environment = {**os.environ, "NO_COLOR": "1"}
        run = zygote.run(arguments, cwd=Path(cwd).absolute(), env=environment, drawn=is_drawn)
        return subprocess.CompletedProcess(arguments, run.status, run.out, run.err)

    return call


@pytest.fixture
def new_process():
    """The same in a Python that was started for it: where it counts what is imported from where, or how hashes are seeded."""

    def call(*arguments, **options):
        command = [sys.executable, "-m", "clrtool", *map(str, arguments)]
        environment = {**os.environ, "NO_COLOR": "1"}
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, env=environment, check=False, **options
        )

    return call


@pytest.fixture(scope="session")
def zygote():
    """Starts processes without importing torch for each of them."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    return forks.zygote()


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """The folder of a finished quick run on the digits; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    with pytest.raises(SystemExit) as stop:
        main(["rangetest", "digits", *QUICK, "-o", str(folder)])
    assert stop.value.code in (0, 3)
    return folder


@pytest.fixture(scope="session")
def race_run(tmp_path_factory):
    """The folder of a finished run on the digits with a race, as it is by default; not to be changed."""
    folder = tmp_path_factory.mktemp("races") / "digits"
    with pytest.raises(SystemExit) as stop:
        main(["rangetest", "digits", "-q", "-o", str(folder)])
    assert not stop.value.code
    return folder


@pytest.fixture
def gpu(request, monkeypatch):
    """Where a test for a GPU runs; by ``--gpu-on cpu`` with everything but the capture."""
    found = Gpu(request.config.option.gpu_on)
    if found.is_dry:
        for place in ("sweep", "scout"):
            monkeypatch.setattr(f"clrtool.engine.rangetest.{place}.make_ensembles", uncaptured)
    return found


@pytest.fixture
def shared():
    """The reference data beside the project, where there is any."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference data: {SHARED.name}/ is not beside the project")
    return SHARED
