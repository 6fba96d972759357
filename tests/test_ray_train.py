"""``clrtool.range_test`` in the workers of Ray Train: they decide as ranks do that a program has started itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import snippet
from tests.ranks import ended, start

ROOT = Path(__file__).parents[1]
pytest.importorskip("ray.train", reason="clrtool[ray] or ray[train] is not installed", exc_type=ImportError)


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """Workers that take their turn, and leave nothing behind."""
    for name, value in (("RAY_worker_niceness", 0), ("RAY_USAGE_STATS_ENABLED", 0), ("OMP_NUM_THREADS", 1)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("HOME", str(tmp_path))


def python(*words, cwd):
    done = subprocess.run([sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def found(folder, how):
    return [json.loads((folder / f"{how}-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.short(0)
def test_workers_of_which_one_is_killed_are_started_again_and_find_what_ranks_find_without_ray(tmp_path):
    ray, plain = tmp_path / "ray", tmp_path / "plain"
    for folder in (ray, plain):
        folder.mkdir()
    python("-m", "tests.ray_train", ray, "copied,sharded", "lose", cwd=ROOT)
    assert (ray / "killed").exists()
    codes, printed = ended(start(2, "-m", "tests.ray_train", plain, "copied,sharded", cwd=ROOT))
    assert codes == [0, 0], printed
    for how in ("copied", "sharded"):
        assert found(ray, how) == found(plain, how)
        first, second = found(ray, how)
        assert first == second
        assert (first["ranks"], first["as it was"], first["pass"], first["warnings"]) == (2, True, 0, [])
        assert None not in first["bounds"]


def test_the_code_of_the_guide_runs_and_reports_a_run_that_is_saved_once(tmp_path):
    (tmp_path / "train.py").write_text(snippet("ray.train"))
    printed = python("train.py", cwd=tmp_path)
    assert printed in (ROOT / "clrtool/guide/many-gpus.md").read_text()
    (result,) = tmp_path.glob("ray_results/*/*/result.json")
    assert "triangular2" in result.read_text()
