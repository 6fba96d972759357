"""Shell completion, as bash asks for it, in a process of its own."""

import os
import subprocess
import sys

import pytest

from clrtool.cli.complete import configs, runs


def completed(line, folder):
    """What bash is given for a line whose last word is not finished."""
    words = line.split(" ")
    asked = {"_CLRTOOL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    code = "import sys; sys.argv[0] = 'clrtool'; from clrtool.cli.main import app; app(prog_name='clrtool')"
    command = [sys.executable, "-X", "importtime", "-c", code]
    done = subprocess.run(command, env={**os.environ, **asked}, cwd=folder, capture_output=True, text=True, check=False)
    assert not {name for name in ("torch", "pydantic", "numpy", "rich") if f"| {name}\n" in done.stderr}
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("clrtool ra", ["rangetest"]),
        ("clrtool rangetest di", ["digits"]),
        ("clrtool rangetest digits --bud", ["--budget"]),
        ("clrtool plan my-", ["my-run"]),
        ("clrtool rangetest digits --on-oom a", ["accumulate"]),
        ("clrtool plan my-run --format c", ["csv", "composer", "caffe"]),
    ],
)
def test_commands_options_configs_and_runs_are_completed_without_a_heavy_import(tmp_path, line, expected):
    (tmp_path / "runs" / "my-run").mkdir(parents=True)
    (tmp_path / "runs" / "my-run" / "result.json").touch()
    assert completed(line, tmp_path) == expected


def test_files_are_completed_by_their_endings_and_folders_always(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine.yaml", "mine.txt", "more/digits.yaml", "more/plan.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert configs("mi") == ["mine.yaml"]
    assert configs("more/") == ["more/digits.yaml"]
    (tmp_path / "mock.yaml").touch()
    (tmp_path / ".hidden.yaml").touch()
    assert configs("mo") == ["more/", "mock.yaml"]
    assert configs("mor") == [], "a shell completes it by itself, without a space behind"
    assert runs("more/p") == ["more/plan.json"]
    assert configs("none/") == []
