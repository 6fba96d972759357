"""``clrtool rangetest`` under torchrun: one test, one folder, one voice."""

import json
import re
import signal
from pathlib import Path

import pytest

from tests.ranks import ended, restarted, start, wait_until
from tests.torture.conftest import STEP

# With batch norm and random crops; long enough to be interrupted on any machine.
CONFIG = """
model: {name: convnet, args: {channels: [8, 16], batch_norm: true}}
data: {name: digits, batch_size: 48, augment: {crop: 1}}
sweep: {epochs: 4, seeds: 2, start_lr: 1e-3, end_lr: 1}
"""
HOW = ["--device", "cpu", "--deterministic", "-q"]
QUICK = ["sweep.epochs=1", "sweep.evaluations=10", "sweep.start_lr=1e-3", "sweep.end_lr=0.5", "--seeds", "1"]
FILES = {"config.yaml", "curve.csv", "result.json", "range_test.png", "schedule.png"}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    file = tmp_path_factory.mktemp("ranks") / "small.yaml"
    file.write_text(CONFIG)
    return file


@pytest.fixture(scope="module")
def whole(config):
    """The folder of a run of two ranks that nothing has interrupted."""
    folder = config.parent / "whole"
    codes, printed = ended(start(2, "-m", "clrtool", "rangetest", config, "-o", folder, *HOW))
    assert codes in ([0, 0], [3, 0]), printed
    assert printed[1] == ("", "")  # the first speaks for all
    return folder


def begun(config, folder):
    """Two ranks in the midst of training, saving all the time."""
    processes = start(2, "-m", "clrtool", "rangetest", config, "-o", folder, *HOW, "--checkpoint-every", "0")
    wait_until((folder / "checkpoint").is_dir)
    return processes


def test_two_ranks_measure_what_one_process_measures(cli, tmp_path):
    words = ["rangetest", "digits", *QUICK, "--device", "cpu"]
    codes, printed = ended(start(2, "-m", "clrtool", *words, "--json", "-o", tmp_path / "two"))
    assert {name.name for name in (tmp_path / "two").iterdir()} >= FILES - {"schedule.png"}
    assert codes[1] == 0
    assert printed[1] == ("", "")
    result = json.loads(printed[0][0])
    assert result["environment"]["ranks"] == 2
    assert "batch_norm" not in result["environment"]
    assert result["sweep"]["engine"] == "eager, 2 ranks"
    assert cli(*words, "-q", "-o", tmp_path / "one").code == codes[0]
    one, two = ((tmp_path / name / "curve.csv").read_text().splitlines() for name in ("one", "two"))
    assert [row.split(",")[-1] for row in one] == [row.split(",")[-1] for row in two]


def test_a_race_of_two_ranks_comes_to_the_bounds_of_one_process(cli, tmp_path):
    words = ["rangetest", "digits", "--device", "cpu", "--deterministic"]
    codes, printed = ended(start(2, "-m", "clrtool", *words, "--json", "-o", tmp_path / "two"))
    assert codes == [0, 0], printed
    assert printed[1] == ("", "")
    two, one = json.loads(printed[0][0]), json.loads(cli(*words, "--json", "-o", tmp_path / "one").out)
    assert two["environment"]["ranks"] == 2
    assert two["bounds"]["max_lr"] == one["bounds"]["max_lr"] is not None
    assert two["bounds"]["base_lr"] == one["bounds"]["base_lr"]
    assert two["race"]["constant"] == pytest.approx(one["race"]["constant"])
    for mine, yours in zip(one["race"]["probes"], two["race"]["probes"], strict=True):
        assert [mine[name] for name in ("seed", "lr", "iterations")] == [
            yours[name] for name in ("seed", "lr", "iterations")
        ]
        grows = mine["lr"] > one["bounds"]["max_lr"]  # what sums in another order differ by, at rates that are too high
        assert mine["loss"] == pytest.approx(yours["loss"], rel=0.05 if grows else 1e-3)


@pytest.mark.short(0)
def test_a_race_of_two_ranks_that_was_interrupted_goes_on_to_the_bytes_of_one_that_was_not(config, tmp_path):
    words = ["-m", "clrtool", "rangetest", config, "sweep={}", "model.args.channels=[4]", *HOW]
    codes, printed = ended(start(2, *words, "-o", tmp_path / "whole"))
    assert codes in ([0, 0], [3, 0]), printed
    spoken = words[:-1]  # without -q
    processes, heard = start(2, *spoken, "-o", tmp_path / "run"), []
    while not any(line.startswith("  lr ") for line in heard[-1:]):
        heard.append(processes[0].stderr.readline())
        assert heard[-1], heard
    processes[1].send_signal(signal.SIGTERM)
    stopped, printed = ended(processes)
    assert stopped == [143, 143], printed
    codes, printed = ended(start(2, *words, "-o", tmp_path / "run"))
    assert codes in ([0, 0], [3, 0]), printed
    for name in ("curve.csv", "result.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.short(0)
def test_ranks_of_two_machines_measure_what_those_of_one_measure(config, whole, tmp_path):
    codes, printed = ended(start(2, "-m", "clrtool", "rangetest", config, "-o", tmp_path, *HOW, machines=2))
    assert codes in ([0, 0], [3, 0]), printed
    assert all((tmp_path / name).read_bytes() == (whole / name).read_bytes() for name in ("curve.csv", "result.json"))


def test_the_result_says_what_batch_norm_saw(whole):
    result = json.loads((whole / "result.json").read_text())
    assert result["environment"]["batch_norm"] == "24 samples, those of one rank"
    assert result["sweep"]["engine"] == "eager, 2 ranks, batch norm sees 24 samples, those of one rank"


def test_a_signal_to_any_rank_stops_all_and_another_number_of_ranks_does_not_go_on(config, tmp_path, cli):
    processes = begun(config, tmp_path)
    processes[1].send_signal(signal.SIGTERM)
    codes, printed = ended(processes)
    assert codes == [143, 143], printed
    assert "Run the same command to resume" in printed[0][1]
    alone = cli("rangetest", config, "-o", tmp_path, *HOW)
    assert alone.code == 2
    assert "was started with 2 ranks, and there is 1 now; with batch norm" in alone.err
    assert "--fresh" in alone.err


def test_a_rank_that_is_killed_ends_the_others_with_4_and_nothing_is_torn(config, tmp_path):
    processes = begun(config, tmp_path)
    processes[0].kill()  # with it goes the store that it held
    codes, printed = ended(processes)
    assert codes == [-9, 4]
    assert "a rank was lost" in printed[1][1]
    assert {file.name for file in tmp_path.iterdir()} - {".lock"} == {"config.yaml", "curve.csv", "checkpoint"}


@pytest.mark.short(0)
@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="looks for the processes of torchrun in /proc")
def test_torchrun_starts_a_killed_rank_again_and_the_curve_is_that_of_an_uninterrupted_run(config, whole, tmp_path):
    err = restarted("rangetest", config, "-o", tmp_path, *HOW, "--checkpoint-every", "0", killed_once=tmp_path)
    assert err.count("error: a rank was lost") == 1
    assert (tmp_path / "result.json").is_file(), err
    assert (tmp_path / "curve.csv").read_bytes() == (whole / "curve.csv").read_bytes()


SPREAD = ["training.shard=auto", "model.name=mlp", "model.args={hidden: [16, 16]}", "data.augment={}", "sweep.seeds=1"]


def test_two_ranks_that_share_a_model_measure_what_two_with_all_of_it_measure(config, tmp_path):
    for shard in ("auto", "none"):
        words = ["-m", "clrtool", "rangetest", config, *SPREAD, *HOW, f"training.shard={shard}", "-o", tmp_path / shard]
        codes, printed = ended(start(2, *words))
        assert codes in ([0, 0], [3, 0]), printed
    curves = [(tmp_path / shard / "curve.csv").read_text().splitlines() for shard in ("auto", "none")]
    assert [row.split(",")[-1] for row in curves[0]] == [row.split(",")[-1] for row in curves[1]]


@pytest.mark.short(0)
def test_a_dry_run_of_ranks_says_that_an_unfinished_run_would_resume(config, tmp_path):
    words = ["-m", "clrtool", "rangetest", config, *SPREAD, *HOW, "-o", tmp_path]
    assert ended(start(2, *words, faults={0: {"signal_at": [[STEP, 40, int(signal.SIGTERM), 1]]}}))[0] == [143, 143]
    codes, printed = ended(start(2, *words, "-n"))
    assert codes == [0, 0], printed
    told = " ".join(printed[0][0].split())
    assert "holds an unfinished run, which would resume" in told
    assert re.search("ranks 2: .* per iteration, .* at the peak; over the network each iteration sums .* KiB", told)


def test_a_dry_run_measures_every_rank_says_so_once_and_writes_nothing(config, tmp_path):
    words = ["-m", "clrtool", "rangetest", config, *SPREAD, *HOW, "sweep={}", "-n"]
    spread, whole = [[*words, "--json"], [*words, "training.shard=none", "training.micro_batches=2", "--json"]]
    for command, weights in ((spread, True), (whole, False)):
        codes, printed = ended(start(2, *command, "-o", tmp_path / "run"))
        assert codes == [0, 0], printed
        assert printed[1] == ("", "")
        told = json.loads(printed[0][0])
        assert told["iterations"] == 500
        assert [each["iteration_seconds"] > 0 < each["peak_bytes"] for each in told["ranks"]] == [True, True]
        gradients = 4 * told["parameters"] * (1 if weights else 2)  # DistributedDataParallel after each micro-batch
        assert {each["reduced_bytes"] for each in told["ranks"]} == {gradients + 8}  # and the loss
        assert all((each["gathered_bytes"] > 0) is weights for each in told["ranks"])
        assert "would be new" in told["folder"]
        assert not (tmp_path / "run").exists()


def seated(monkeypatch, rank, world=2):
    for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["data.batch_size=33"],
            "'data.batch_size=33': data.batch_size = 33 must be divisible by the number of ranks, 2",
        ),
        (["training.compile=true"], "training.compile does not work with 2 ranks"),
        (["--on-oom", "accumulate"], "with 2 ranks give training.micro_batches=2"),
        (["--device", "cuda:1"], "every rank needs its own"),
    ],
)
def test_what_does_not_go_with_ranks_is_refused_with_a_way_out(cli, monkeypatch, tmp_path, words, said):
    seated(monkeypatch, 0)
    found = cli("rangetest", "digits", *words, "-o", tmp_path / "run")
    assert (found.code, found.out) == (2, "")
    assert said in found.err
    assert not (tmp_path / "run").exists()


def test_the_nearest_batch_size_that_fits_is_named(cli, monkeypatch, tmp_path):
    for size, world, nearest in ((33, 4, 32), (2, 4, 4), (35, 4, 36)):
        seated(monkeypatch, 0, world)
        found = cli("rangetest", "digits", f"data.batch_size={size}", "-o", tmp_path)
        assert f"the nearest such size is {nearest}\n" in found.err


def test_only_the_first_rank_says_what_is_wrong(process, monkeypatch, tmp_path):
    seated(monkeypatch, 1)
    found = process("rangetest", "digits", "data.batch_size=33", "-o", tmp_path)
    assert (found.returncode, found.stdout, found.stderr) == (2, "", "")


def test_compare_is_refused_under_torchrun_and_one_rank_is_no_rank(cli, monkeypatch):
    seated(monkeypatch, 0)
    found = cli("compare", "digits")
    assert found.code == 2
    assert "clrtool compare runs in one process, but torchrun started 2" in found.err
    from clrtool.cli.run.torchrun import find_seat

    seated(monkeypatch, 0, world=1)
    assert find_seat() is None


@pytest.mark.gpu(2)
def test_two_gpus_train_with_synchronised_batch_norm(config, tmp_path):
    words = ["training.sync_batch_norm=true", "-q", "--json", "-o", tmp_path]
    codes, printed = ended(start(2, "-m", "clrtool", "rangetest", config, *words))
    assert codes[1] == 0, printed
    result = json.loads(printed[0][0])
    assert result["environment"]["batch_norm"] == "48 samples, those of all ranks"
    assert result["environment"]["device"].startswith("cuda")
