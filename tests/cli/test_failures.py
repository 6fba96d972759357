"""What goes wrong on a machine is a clear error, and never a silently smaller batch or another answer."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest

from clrtool.errors import MachineError
from tests.conftest import QUICK
from tests.engine.workloads import FORKS

FACTORIES = """
import time
import torch
from torch import nn
from torch.utils.data import Dataset

class Hungry(nn.Sequential):
    most = 40
    def forward(self, x):
        if self.training and len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(x)

def hungry(): return Hungry(nn.Flatten(), nn.Linear(64, 10))

class Insatiable(Hungry):
    most = 0

def insatiable(): return Insatiable(nn.Flatten(), nn.Linear(64, 10))

class Stuck(Dataset):
    def __len__(self): return 256
    def __getitem__(self, place):
        if torch.utils.data.get_worker_info() is not None:
            time.sleep(3600)
        return torch.zeros(8), place % 2

def stuck(): return Stuck(), (torch.randn(64, 8), torch.arange(64) % 2)
def line(): return nn.Linear(8, 2)

class Nondeterministic(nn.Sequential):
    def forward(self, x):
        x = x.clone()
        return super().forward(x.put_(torch.zeros(2, dtype=torch.long), x.new_zeros(2)))

def nondeterministic(): return Nondeterministic(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "machine_factories.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "machine_factories", raising=False)
    return tmp_path


def of(model, *words):
    factory = f"model={{factory: 'machine_factories:{model}'}}"
    return ["rangetest", "digits", factory, "--allow-import", "machine_factories:*", *QUICK, *words]


def test_out_of_memory_exits_4_with_the_peak_and_two_ways_out(cli, folder):
    result = cli(*of("hungry", "data.batch_size=64", "-o", "run"))
    assert result.code == 4
    for part in ("peak memory", "GiB", "training.micro_batches=2", "--on-oom accumulate", "data.batch_size=32"):
        assert part in result.err
    assert not (folder / "run" / "result.json").exists()


def test_accumulating_keeps_the_batch_and_records_the_micro_batches(cli, folder):
    words = ["data.batch_size=128"]
    result = cli(*of("hungry", *words, "--on-oom", "accumulate", "-o", "by-itself"))
    assert result.code in (0, 3), result.err
    told = json.loads((folder / "by-itself" / "result.json").read_text())
    assert told["sweep"]["iterations_per_epoch"] == 1438 // 128
    assert any("batches of 128 were split into 4 micro-batches of 32" in each for each in told["sweep"]["warnings"])
    cli(*of("hungry", *words, "training.micro_batches=4", "-o", "by-hand"))
    for name in ("curve.csv", "config.yaml"):
        one, other = ((folder / run / name).read_text() for run in ("by-itself", "by-hand"))
        assert (one == other) == (name == "curve.csv")
    again = cli(*of("hungry", *words, "-o", "by-itself"))
    assert again.code == result.code
    assert "shown again" not in again.out


def test_a_comparison_accumulates_too(cli, folder):
    factory = "model={factory: 'machine_factories:hungry'}"
    words = [
        "compare",
        "digits",
        factory,
        "--allow-import",
        "machine_factories:*",
        "data.batch_size=128",
        "--epochs",
        "2",
    ]
    words += ["--bounds", "0.01,0.1", "--policies", "fixed,cosine", "--seeds", "2", "-q", "-o", "comparison"]
    assert cli(*words).code == 4
    assert cli(*words, "--on-oom", "accumulate").code == 0
    told = json.loads((folder / "comparison" / "compare.json").read_text())
    assert any("split into 4 micro-batches of 32" in each for each in told["warnings"])


def test_a_model_that_does_not_fit_with_one_sample_is_out_of_memory_all_the_same(cli, folder):
    result = cli(*of("insatiable", "--on-oom", "accumulate", "-o", "run"))
    assert result.code == 4
    assert "out of memory on cpu" in result.err


def limited():
    resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))


@pytest.mark.short(0)
def test_memory_that_a_cpu_does_not_have_is_named(tmp_path):
    words = ["rangetest", "digits", "model.args={hidden: [30000, 30000]}", *QUICK, "-o", str(tmp_path / "run")]
    run = subprocess.run(
        [sys.executable, "-m", "clrtool", *words], capture_output=True, text=True, preexec_fn=limited,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 4, run.stderr
    assert "out of memory" in run.stderr
    assert "peak memory" in run.stderr
    assert "Traceback" not in run.stderr


@FORKS
def test_a_worker_that_hangs_ends_in_a_message(cli, folder, monkeypatch):
    monkeypatch.setattr("clrtool.engine.data.loader.WORKER_TIMEOUT", 1.0)
    data = "data={factory: 'machine_factories:stuck', batch_size: 16, workers: 1, placement: loader}"
    result = cli(*of("line", data, "-o", "run"))
    assert result.code == 4
    assert "a worker hangs: data.workers=0 reads in this process and shows where" in result.err


@pytest.mark.short(0)
def test_a_small_shared_memory_is_a_matter_of_the_machine_and_no_worker_needs_none(tmp_path):
    apart = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], check=False).returncode:
        pytest.skip("this user may not mount another /dev/shm")
    pixels = np.random.default_rng(0).random((400, 3, 32, 32), np.float32)
    np.savez(tmp_path / "a.npz", x=pixels, y=np.arange(400) % 2)
    (tmp_path / "mine.yaml").write_text(
        "model: {name: mlp, args: {hidden: [8]}}\n"
        "data: {name: npz, args: {path: a.npz}, batch_size: 100, placement: loader, workers: 2}\n"
    )
    words = ["rangetest", "mine.yaml", *QUICK, "-q", "-o", "run"]
    for more, code in ([], (4,)), (["data.workers=0"], (0, 3)):
        command = [*apart, sys.executable, "-m", "clrtool", *words, *more, "--fresh"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode in code, done.stderr
        assert more or "data.workers=0 needs none of it" in " ".join(done.stderr.split())


def test_an_operation_that_is_not_deterministic_names_the_switch(cli, folder):
    assert cli(*of("nondeterministic", "-o", "free")).code in (0, 3)
    result = cli(*of("nondeterministic", "--deterministic", "-o", "run"))
    assert result.code == 2
    assert "does not have a deterministic implementation" in result.err
    assert "without --deterministic" in result.err


def test_a_dataset_that_changed_between_two_starts_is_noticed(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 255, (200, 8, 8), dtype=np.uint8)
    np.savez("a.npz", x=images, y=np.arange(200) % 4)
    words = ["rangetest", "digits", "data={name: npz, args: {path: a.npz}, batch_size: 16}", *QUICK, "-o", "run"]
    assert cli(*words).code in (0, 3)
    assert "shown again" in cli(*words[:-3], *words[-2:]).err
    images[7, 3, 3] += 1
    np.savez("a.npz", x=images, y=np.arange(200) % 4)
    changed = cli(*words)
    assert changed.code == 2
    assert "was measured with different data; use --fresh to run it again" in changed.err
    assert cli(*words, "--fresh").code in (0, 3)
    (tmp_path / "a.npz").unlink()
    gone = cli(*words[:-3], *words[-2:])
    assert gone.code in (0, 3)
    assert "a.npz does not exist" in gone.err
    assert "is shown without checking its data" in gone.err


def test_deterministic_results_hold_no_times_and_are_not_mixed_with_others(cli, tmp_path):
    words = ["rangetest", "digits", *QUICK, "-o", tmp_path / "run"]
    first = cli(*words, "--deterministic")
    assert first.code in (0, 3)
    assert re.search(r"\d s\b", first.out) is None
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["sweep"]["train_seconds"] is result["sweep"]["evaluation_seconds"] is None
    assert result["environment"]["deterministic"] is True
    assert cli(*words).out == first.out
    assert cli(*words, "--fresh").code in (0, 3)
    mixed = cli(*words, "--deterministic")
    assert mixed.code == 2
    assert "was measured without --deterministic; use --fresh to run it again" in mixed.err


def test_code_that_changed_between_a_sweep_and_its_race_is_noticed(cli, folder, monkeypatch):
    most = FACTORIES.replace("most = 40", "most = 400")
    (folder / "machine_factories.py").write_text(most)
    words = of("hungry", "sweep.method=race", "-o", "run", "--checkpoint-every", "0")
    with monkeypatch.context() as broken:
        broken.setattr("clrtool.engine.rangetest.race.Runs.read", broken_off)
        assert cli(*words).code == 4
    assert not (folder / "run" / "result.json").exists()
    (folder / "machine_factories.py").write_text(most.replace("most = 400", "most = 401"))
    sys.modules.pop("machine_factories")
    changed = cli(*words)
    assert changed.code == 2
    assert (
        "was started with different code or weights (machine_factories changed). Restore them to resume" in changed.err
    )
    (folder / "machine_factories.py").write_text(most)
    sys.modules.pop("machine_factories")
    assert cli(*words).code in (0, 3)
    result = json.loads((folder / "run" / "result.json").read_text())
    assert len(result["sources"]["machine_factories"]) == 64
    assert result["race"]["probes"]


def broken_off(runs, wanted):
    raise MachineError("broken off")


@pytest.mark.short(0)
def test_messages_that_nobody_reads_any_more_do_not_stop_a_test(tmp_path):
    command = [sys.executable, "-m", "clrtool", "rangetest", "digits", *QUICK[:-1], "-o", str(tmp_path / "run")]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run.stderr.close()
    run.stdout.close()
    assert run.wait(timeout=60) in (0, 3)
    assert (tmp_path / "run" / "schedule.png").exists()
