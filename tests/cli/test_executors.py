"""Seeds that are shared out: however they were spread, killed or stopped, the files are those of a plain run."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from clrtool.cli.run import local_processes, subprocesses
from clrtool.cli.run.seed_share import JOBS, SeedShare, read_shard
from clrtool.core.results.shard import Shard
from clrtool.engine.rangetest.ray_worker import sweep_remotely
from clrtool.engine.resume.sharding import COMMON, AgreedScout, union
from clrtool.engine.runtime.serialize import to_bytes
from clrtool.errors import ConfigError
from tests import conftest
from tests.forks import PATIENCE
from tests.torture.runs import assert_same, contents, wait_for

# Four short sweeps and a scout. With one thread two processes do not wait for each other.
WORDS = ["digits", "--seeds", "4", "--deterministic", "--device", "cpu", "sweep.epochs=1", "sweep.evaluations=10"]
RAY = ["--ray", "local"]
LONG = ["digits", "--seeds", "4", "--deterministic", "--device", "cpu", "sweep.epochs=400", "--jobs", "2"]
ABOUT = {"device": "cpu", "config_sha256": "a", "sources": {}}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


class ForkedChild:
    """A job that the zygote forks, which need not import torch; none of them is stopped by the end of its stdin."""

    def __init__(self, zygote, command):
        self._run = zygote.start(command.words, cwd=Path.cwd(), env={**os.environ, **command.environment})

    def ended(self):
        if not self._run.ends_within(0):
            return None
        code, result = self._run.wait(), json.loads(self._run.out or "null")
        return subprocesses.Ended(code if code >= 0 else 128 - code, result, self._run.err)

    def stop(self):
        self._run.kill(signal.SIGTERM)


@pytest.fixture
def jobs(request, monkeypatch):
    """Jobs are forked in the short form; processes that are started anew have a test that fails, and all the long one."""
    if not conftest.LONG:
        monkeypatch.setattr(subprocesses, "Child", partial(ForkedChild, request.getfixturevalue("zygote")))


@pytest.fixture(scope="module")
def plain(zygote, tmp_path_factory):
    """The files of a run that nobody shared out, and finished shards of the same."""
    folder = tmp_path_factory.mktemp("plain")
    for more in ([], ["--seed-shard", "1/2"], ["--seed-shard", "2/2"]):
        place = folder / ("shards" if more else "whole") / "digits"
        done = zygote.run(["rangetest", *WORDS, *more, "-o", place, "-q"])
        assert done.status in (0, 3), done.err
    return folder


@pytest.fixture
def shards(plain, tmp_path):
    """A run folder with two shards that are finished, to be changed."""
    return shutil.copytree(plain / "shards" / "digits", tmp_path / "digits")


def whole(plain):
    return contents(plain / "whole" / "digits")


@pytest.mark.usefixtures("jobs")
def test_two_jobs_leave_the_files_of_a_plain_run_and_nothing_else(cli, plain, tmp_path):
    done = cli("rangetest", *WORDS, "--jobs", "2", "-o", tmp_path / "digits")
    assert done.code in (0, 3), done.err
    assert "2 processes share the seeds" in done.err
    assert_same(tmp_path / "digits", whole(plain))


@pytest.mark.parametrize(
    ("device", "gpus", "told"),
    [("auto", 1, "2 processes share the seeds and 1 GPU: without --jobs one process trains"), ("cuda:1", 2, "and 1 GPU"),
     ("auto", 2, ""), ("auto", 0, ""), ("cpu", 1, "")],
)  # fmt: skip
def test_jobs_that_crowd_on_a_gpu_are_told_so(monkeypatch, capsys, tmp_path, device, gpus, told):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(local_processes, "run_children", lambda *_: {})
    display = SimpleNamespace(quiet=False, plain=True)
    spec = SimpleNamespace(folder=tmp_path, display=display, options=SimpleNamespace(device=device))
    local_processes.LocalProcesses(spec, [], 2).train(SimpleNamespace(stop=None))
    said = capsys.readouterr().err
    assert told in said
    assert ("GPU" in said) is bool(told)


@pytest.mark.short(0)
def test_two_jobs_that_sweep_before_a_race_leave_the_files_of_a_run_without_jobs(process, tmp_path):
    words = ["rangetest", "digits", "--seeds", "2", "--budget", "0.4", "--deterministic", "--device", "cpu"]
    plain = process(*words, "-q", "-o", tmp_path / "plain" / "digits")
    assert plain.returncode in (0, 3), plain.stderr
    done = process(*words, "--jobs", "2", "-o", tmp_path / "jobs" / "digits")
    assert done.returncode in (0, 3), done.stderr
    assert "2 processes share the seeds" in done.stderr
    result = json.loads((tmp_path / "jobs" / "digits" / "result.json").read_text())
    assert {probe["seed"] for probe in result["race"]["probes"]} == {0, 1}
    assert_same(tmp_path / "jobs" / "digits", contents(tmp_path / "plain" / "digits"))


def test_shards_of_a_test_with_a_race_are_merged_to_the_files_of_a_plain_run(cli, tmp_path):
    words = ["rangetest", "digits", "--seeds", "2", "--verify", "plan.epochs=12", "--deterministic", "-q"]
    words += ["--device", "cpu"]
    assert cli(*words, "-o", tmp_path / "plain" / "digits").code in (0, 3)
    for shard in ("1/2", "2/2"):
        assert cli(*words, "--seed-shard", shard, "-o", tmp_path / "digits").code == 0
    assert cli("merge", tmp_path / "digits", "-q").code in (0, 3)
    shutil.rmtree(tmp_path / "digits" / "shards")
    assert_same(tmp_path / "digits", contents(tmp_path / "plain" / "digits"))


def test_a_race_that_sweeps_one_seed_gives_it_to_no_second_job(cli, tmp_path):
    done = cli("rangetest", "digits", "--jobs", "2", "--device", "cpu", "-o", tmp_path / "digits")
    assert done.code in (0, 3), done.err
    assert "processes share the seeds" not in done.err
    other = cli("rangetest", "digits", "--seed-shard", "2/2", "-o", tmp_path / "other")
    assert (other.code, "no seed is left for shard 2/2" in other.err) == (0, True)


def test_shards_are_merged_to_the_files_of_a_plain_run_and_stay(cli, plain, shards):
    assert cli("merge", shards, "-q").code in (0, 3)
    left = shards.rename(shards.with_name("elsewhere")) / "shards"
    shutil.move(left, shards.with_name("shards"))
    assert_same(shards.with_name("elsewhere"), whole(plain))
    assert {path.name for path in shards.with_name("shards").glob("*-of-*")} == {"1-of-2", "2-of-2"}


def test_a_missing_shard_is_named_with_the_option_that_measures_it(cli, shards):
    shutil.rmtree(shards / "shards" / "2-of-2")
    done = cli("merge", shards, "-q")
    assert done.code == 2
    assert "shard 2/2 is missing" in done.err
    assert "with --seed-shard 2/2 instead" in done.err


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"config_sha256": "f" * 64}, "was started with another config"),
        ({"data_sha256": "f" * 64}, "was started with different data"),
        ({"sources": {"net": "f" * 64}}, "with different code or weights (net changed)"),
        ({"deterministic": False}, "was started without --deterministic"),
        ({"device": "cuda"}, "was started on cuda, and this is cpu"),
        ({"micro_batches": 2}, "training.micro_batches=2 for all"),
        ({"finished": {"scout": (1e-3, 1.0, 5)}}, "is not finished"),
        ({"scout": (1e-3, 1.0, 5)}, "swept different ranges"),
    ],
)
def test_shards_that_do_not_belong_together_are_refused(cli, shards, changed, message):
    from clrtool.engine.resume.checkpoint import CheckpointFolder

    folder = CheckpointFolder(shards / "shards" / "2-of-2" / "checkpoint")
    values = folder.load().values
    if "scout" in changed:
        changed = {"finished": values["finished"] | changed}
    folder.save(values | changed)
    done = cli("merge", shards, "-q")
    assert done.code == 2
    assert message in done.err
    assert "2-of-2" in done.err
    assert not (shards / "result.json").exists()


def test_what_is_no_shard_and_shards_of_no_run_are_refused(cli, shards, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "is no shard of a range test" in cli("merge", tmp_path / "empty", "-o", tmp_path / "run").err
    moved = shutil.copytree(shards / "shards" / "1-of-2", tmp_path / "mine")
    assert "with -o DIR" in cli("merge", moved, shards / "shards" / "2-of-2").err


def test_a_shard_that_is_given_twice_is_one_and_a_copy_of_it_is_refused(cli, plain, shards, tmp_path, monkeypatch):
    one, two = (shards / "shards" / f"{number}-of-2" for number in (1, 2))
    copy = shutil.copytree(one, tmp_path / "copy")
    done = cli("merge", one, copy, two, "-o", tmp_path / "run" / "digits")
    assert (done.code, f"{copy} and {one} are both shard 1/2: give each shard once" in done.err) == (2, True)
    monkeypatch.chdir(shards)
    assert cli("merge", one, "shards/1-of-2", two, "-o", tmp_path / "run" / "digits", "-q").code in (0, 3)
    assert_same(tmp_path / "run" / "digits", whole(plain))


def test_shards_in_folders_of_one_name_both_count_their_time(shards, tmp_path):
    from clrtool.engine.resume.checkpoint import CheckpointFolder

    placed, spent = [], 0.0
    for number in (1, 2):
        placed.append(shutil.copytree(shards / "shards" / f"{number}-of-2", tmp_path / str(number) / "digits"))
        values = CheckpointFolder(placed[-1] / "checkpoint").load().values
        spent += sum(values["seconds"].values())
    found = union(placed, {name: values.get(name) for name in (*COMMON, "device", "environment")})
    assert sum(sum(each.values()) for each in found.seconds.values()) == pytest.approx(spent)


def test_shards_that_were_measured_elsewhere_are_merged_with_a_word_about_it(cli, shards):
    from clrtool.engine.resume.checkpoint import CheckpointFolder

    for name in ("1-of-2", "2-of-2"):
        folder = CheckpointFolder(shards / "shards" / name / "checkpoint")
        values = folder.load().values
        # both ran on a GPU, and this machine, which trains nothing any more, has none
        environment = values["environment"] | {"device": "cuda: a GPU", "numpy": f"of {name}"}
        folder.save(values | {"device": "cuda", "environment": environment})
    assert cli("merge", shards, "-q").code in (0, 3)
    result = json.loads((shards / "result.json").read_text())
    assert result["environment"]["device"] == "cuda: a GPU"
    told = "The seeds of 2-of-2 were measured where numpy was of 1-of-2 and is of 2-of-2"
    assert any(warning.startswith(told) for warning in result["sweep"]["warnings"])


def start(*words, cwd=None):
    command = [sys.executable, "-m", "clrtool", *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=cwd)


def rows(folder):
    """Rows that the jobs of a run have measured so far."""
    return [len(path.read_text().splitlines()) for path in (folder / JOBS).glob("*/curve.csv")]


def holder(folder):
    """The process of a job, as it stands in its lock."""
    return int((folder / ".lock").read_text().split()[0])


def is_running(pid):
    with suppress(OSError):
        return os.kill(pid, 0) is None
    return False


@pytest.mark.short(0)
def test_a_job_that_is_killed_and_one_that_is_stopped_go_on_with_the_same_command(tmp_path):
    words = ["rangetest", *LONG, "-o", tmp_path / "digits"]
    run, folder = start(*words), tmp_path / "digits"
    wait_for(lambda: len(rows(folder)) == 2 and min(rows(folder)) > 3)
    os.kill(holder(folder / JOBS / "2-of-2"), signal.SIGKILL)
    time.sleep(0.5)
    run.send_signal(signal.SIGINT)
    errors = run.communicate(timeout=60)[1]
    assert run.returncode == 130, errors
    assert "job 2/2: was ended by SIGKILL" in errors
    assert "Run the same command to resume" in errors
    assert list((folder / JOBS / "1-of-2" / "checkpoint").glob("*.pt"))
    again, lock = start(*words), folder / JOBS / "1-of-2" / ".lock"
    wait_for(lambda: lock.is_file() and lock.read_text())
    job = holder(lock.parent)
    again.kill()
    again.communicate()
    wait_for(lambda: not is_running(job), 30)  # its parent is gone, and it has saved


def test_a_job_that_fails_is_told_with_its_log(process, tmp_path):
    for name in ("1-of-2", "2-of-2"):  # neither comes to import torch
        (tmp_path / "digits" / JOBS / name / ".lock").mkdir(parents=True)
    done = process("rangetest", *WORDS, "--jobs", "2", "-o", tmp_path / "digits", "-q")
    assert done.returncode == 4
    assert "job 2/2: " in done.stderr
    assert ".lock: cannot be made" in done.stderr
    assert "2-of-2.log" in done.stderr
    assert "\n       run the same command again to continue from what was measured\n" in done.stderr
    assert (tmp_path / "digits" / JOBS / "2-of-2.log").is_file()


def test_a_config_that_cannot_be_built_costs_no_run_and_blocks_no_folder(cli, shards, plain):
    old = shutil.copytree(plain / "whole" / "digits", shards / "old")
    wrong = ["model={name: mlp, args: {hid: [8]}}", "--jobs", "2"]
    done = cli("rangetest", *WORDS, *wrong, "--fresh", "-q", "-o", old)
    assert (done.code, done.err.count("did you mean 'hidden'")) == (2, 1)
    assert_same(old, whole(plain))
    assert cli("rangetest", *WORDS, *wrong, "-q", "-o", shards / "new").code == 2
    assert not (shards / "new" / "config.yaml").exists()


@pytest.mark.usefixtures("jobs")
def test_each_of_several_configs_has_its_run_and_one_that_fails_stops_no_other(cli, tmp_path):
    for name, hidden in (("good", 8), ("bad", -1)):
        (tmp_path / f"{name}.yaml").write_text(
            f"model: {{name: mlp, args: {{hidden: [{hidden}]}}}}\ndata: {{name: digits}}\n"
        )
    words = ["bad.yaml", "good.yaml", "sweep.epochs=1", "sweep.start_lr=1e-3", "sweep.end_lr=1", "--seeds", "1"]
    done = cli("rangetest", *words, "--jobs", "2", "-o", "all", "-q")
    assert done.code in (2, 3), done.err
    bad, good = done.out.splitlines()
    assert bad.startswith("bad.yaml: ")
    assert good.startswith("good.yaml: ")
    assert good.endswith("in all/good/")
    assert (tmp_path / "all" / "good" / "result.json").is_file()


@pytest.mark.short(0)
def test_a_dry_run_of_several_configs_tells_of_each_and_one_budget_is_that_of_each(process, tmp_path):
    for name, hidden in (("good", 8), ("bad", -1)):
        (tmp_path / f"{name}.yaml").write_text(
            f"model: {{name: mlp, args: {{hidden: [{hidden}]}}}}\ndata: {{name: digits}}\n"
        )
    dry = process("rangetest", "good.yaml", "bad.yaml", "--budget", "4", "-n", "-q", "-o", "dry", cwd=tmp_path)
    found = re.search(r"^good.yaml: ([0-9,]+) iterations, at most [0-9.]+ (ms|s|min)$", dry.stdout, re.MULTILINE)
    assert found[1] == "1,320", "a budget is that of each"
    assert (dry.returncode, (tmp_path / "dry").exists()) == (2, False)


def test_two_configs_of_one_name_would_write_to_one_folder_and_are_refused(cli, tmp_path):
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "good.yaml").write_text("model: {name: mlp}\ndata: {name: digits}\n")
    both = cli("rangetest", "one/good.yaml", "other/good.yaml")
    assert (both.code, "would both write to" in both.err) == (2, True)


@pytest.fixture
def ray(monkeypatch):
    """Ray, whose processes take their turn: by default others go before them, and a busy machine keeps them waiting."""
    monkeypatch.setenv("RAY_worker_niceness", "0")
    return pytest.importorskip("ray", reason="clrtool[ray] is not installed")


@pytest.mark.usefixtures("ray")
def test_ray_leaves_the_files_of_a_plain_run(process, plain, tmp_path):
    done = process("rangetest", *WORDS, "--ray", "local", "-o", tmp_path / "digits")
    assert done.returncode in (0, 3), done.stderr
    assert_same(tmp_path / "digits", whole(plain))


@pytest.mark.usefixtures("ray")
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_task_of_ray_whose_process_was_killed_is_tried_again(tmp_path):
    words = ["rangetest", "digits", "--seeds", "2", "--deterministic", "--device", "cpu", "sweep.epochs=60", "-q"]
    whole, run = (
        start(*words, *more, "-o", tmp_path / name / "digits") for name, more in (("whole", []), ("ray", RAY))
    )
    wait_for(tasks)
    os.kill(tasks()[0], signal.SIGKILL)
    for each in (whole, run):
        errors = each.communicate(timeout=PATIENCE)[1]
        assert each.returncode in (0, 3), errors
    assert_same(tmp_path / "ray" / "digits", contents(tmp_path / "whole" / "digits"))


def tasks():
    """Processes in which a seed is trained by Ray."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if place.read_bytes().startswith(b"ray::clrtool seed"):
                found.append(int(place.parent.name))
    return found


@pytest.mark.usefixtures("ray")
@pytest.mark.short(0)
def test_seeds_whose_only_node_is_lost_wait_for_one_that_joins_and_leave_the_files_of_a_plain_run(tmp_path):
    from ray.cluster_utils import Cluster

    words = ["rangetest", "digits", "--seeds", "2", "--deterministic", "--device", "cpu", "sweep.epochs=60"]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        node = cluster.add_node(num_cpus=1)
        whole, run = (
            start(*words, *more, "-o", tmp_path / name / "digits")
            for name, more in (("whole", ["-q"]), ("ray", ["--ray", cluster.address]))
        )
        wait_for(tasks)
        cluster.remove_node(node, allow_graceful=False)
        wait_for(lambda: "2 tasks wait: each takes 1 CPU, more than any node has" in run.stderr.readline())
        cluster.add_node(num_cpus=1)
        errors = [each.communicate(timeout=PATIENCE)[1] for each in (whole, run)]
        assert {whole.returncode, run.returncode} <= {0, 3}, errors
    finally:
        cluster.shutdown()
    assert_same(tmp_path / "ray" / "digits", contents(tmp_path / "whole" / "digits"))


@pytest.mark.usefixtures("ray")
@pytest.mark.short(0)
def test_four_seeds_that_take_a_quarter_of_a_gpu_each_share_the_one_that_ray_gives_them(tmp_path, monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")  # which Ray hands out, whether they are there or not
    (tmp_path / "placed.py").write_text(
        "import os, torch\n"
        "def net():\n"
        "    print('GPUS', os.environ.get('CUDA_VISIBLE_DEVICES'), file=open(f'placed-{os.getpid()}', 'w'))\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    )
    config = "model: {factory: 'placed:net'}\ndata: {name: digits}\nsweep: {method: paper, seeds: 4, epochs: 100}\n"
    (tmp_path / "placed.yaml").write_text(config)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": 2})
    words = ["rangetest", tmp_path / "placed.yaml", "--allow-import", "placed:*", "--ray", cluster.address]
    at_once = 0
    try:
        run = start(*words, "--ray-gpus", "0.25", "-o", tmp_path / "run", cwd=tmp_path)
        while run.poll() is None:
            at_once = max(at_once, len(tasks()))
            time.sleep(0.1)
        errors = run.communicate()[1]
        assert run.returncode in (0, 3), errors
    finally:
        cluster.shutdown()
    assert at_once == 4
    placed = sorted(path.read_text() for path in tmp_path.glob("placed-*"))
    assert placed[0] == "GPUS 3\n" == placed[3], "four or more processes on one of the two"
    assert {*placed[4:]} <= {"GPUS 3\n", "GPUS 3,5\n"}, "and the driver"


def test_a_factory_is_found_where_a_process_of_ray_stands_that_lacks_the_folder_of_the_driver(tmp_path, monkeypatch):
    from clrtool.config.file import find_config, load_config

    (tmp_path / "placed_elsewhere.py").write_text(
        "import torch\ndef net():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    )
    keys = [
        "model={factory: 'placed_elsewhere:net'}",
        "sweep.epochs=1",
        "sweep.start_lr=1e-3",
        "sweep.end_lr=1e-2",
        "sweep.seeds=1",
    ]
    config = load_config(find_config("digits"), keys).model_dump(mode="json")
    gone = str(tmp_path / "of the driver")
    source = {"folder": gone, "allow_import": ["placed_elsewhere:*"], "device": "cpu"}
    told = list[str]()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    found = sweep_remotely(config, source, 1, gone, to_bytes({}), [], told.append)
    assert found["kind"] == "config"
    assert "importing 'placed_elsewhere': ModuleNotFoundError" in found["error"]
    monkeypatch.chdir(tmp_path)
    found = sweep_remotely(config, source, 1, gone, to_bytes({}), [0], told.append)
    assert found["lacking"] == []
    assert told[-1] == "epoch 1.0"


def test_gpus_that_ray_cannot_give_are_refused(cli, tmp_path):
    words = ["rangetest", *WORDS[:3], "-q", "-o", tmp_path / "digits"]
    for more, said in (
        (["--ray-gpus", "0.5"], "--ray-gpus 0.5 is for tasks of Ray: give --ray too"),
        (["--ray-gpus", "2", "--ray", "local"], "Input should be less than or equal to 1"),
        (["--ray-gpus", "0.5", "--ray", "local", "--device", "cpu"], "leave out --device cpu, or --ray-gpus"),
        (["--ray", "local", "--device", "cuda:1"], "Ray chooses the GPU of each task: give cuda or auto"),
    ):
        done = cli(*words, *more)
        assert (done.code, said in done.err) == (2, True), done.err


def test_an_address_where_nobody_listens_is_told_at_once(cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace())  # which is not asked for anything
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        done = cli("rangetest", *WORDS, "--ray", address, "-o", tmp_path / "digits", "-q")
    assert (done.code, done.err) == (4, f"error: --ray {address}: cannot be reached: Connection refused\n")


def test_ray_that_is_not_installed_is_told_with_the_way_to_get_it(cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    done = cli("rangetest", *WORDS, "--ray", "local", "-o", tmp_path / "digits", "-q")
    assert (done.code, "pip install 'clrtool[ray]'" in done.err) == (2, True)
    assert cli("rangetest", *WORDS, "--ray", "local", "--jobs", "2").code == 2


@pytest.mark.parametrize("kind", [Exception, ConnectionError, RuntimeError, ValueError])
def test_a_cluster_that_does_not_come_up_is_a_matter_of_the_machine_and_no_traceback(cli, tmp_path, monkeypatch, kind):
    def init(**_):
        raise kind("The current node timed out during startup.")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    done = cli("rangetest", *WORDS, "--ray", "local", "-o", tmp_path / "digits", "-q")
    assert (done.code, done.out) == (4, "")
    assert "error: --ray local: cannot be reached: The current node timed out during startup." in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(("task", "shard"), [("1", "1/8"), ("8", "8/8")])
def test_a_task_of_an_array_knows_its_shard(monkeypatch, task, shard):
    for name, value in (("ID", task), ("MIN", "1"), ("COUNT", "8")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert str(read_shard("slurm")) == shard
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "9")
    with pytest.raises(ConfigError, match="--array=1-8"):
        read_shard("slurm")


def test_an_array_from_0_on_in_steps_has_shards_from_1_on(monkeypatch):
    for name, value in (("ID", "4"), ("MIN", "0"), ("COUNT", "3"), ("STEP", "2")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert str(read_shard("slurm")) == "3/3"


@pytest.mark.parametrize("text", ["0/2", "3/2", "1/0", "1", "a/b", "-1/2", "1/2000", "slurm"])
def test_what_is_no_shard_is_refused(text, monkeypatch):
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    with pytest.raises(ConfigError, match="--seed-shard"):
        read_shard(text)


@pytest.mark.parametrize(("shards", "jobs"), [(1, 1), (2, 3), (5, 2), (8, 8)])
def test_every_seed_is_in_one_job_of_one_shard(tmp_path, shards, jobs):
    shares = [
        SeedShare(tmp_path, Shard(k, shards), Shard(j, jobs)) for k in range(1, shards + 1) for j in range(1, jobs + 1)
    ]
    assert sum(share.count(16) for share in shares) == 16
    assert len({share.folder for share in shares}) == len(shares)


def test_the_first_scout_that_is_finished_is_that_of_all(tmp_path):
    first, second = AgreedScout(tmp_path, ABOUT), AgreedScout(tmp_path, ABOUT)
    assert first.get() is None
    assert first.put((1e-3, 1.0, 100)) == (1e-3, 1.0, 100)
    assert second.put((2e-3, 2.0, 100)) == (1e-3, 1.0, 100) == second.get()
    assert AgreedScout(tmp_path, {**ABOUT, "config_sha256": "b"}).get() is None


def test_processes_of_the_same_number_in_two_containers_agree_all_the_same(tmp_path, monkeypatch):
    first, second = AgreedScout(tmp_path, ABOUT), AgreedScout(tmp_path, ABOUT)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    link, agreed = os.link, []

    def at_the_same_time(source, target):
        monkeypatch.setattr(os, "link", link)
        agreed.append(second.put((1.0, 2.0, 3)))
        link(source, target)

    monkeypatch.setattr(os, "link", at_the_same_time)
    agreed.append(first.put((4.0, 5.0, 6)))
    assert agreed == [(1.0, 2.0, 3)] * 2
    assert len(list(tmp_path.iterdir())) == 1
    assert len(list(tmp_path.iterdir())) == 1
