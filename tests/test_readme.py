"""The README: every command in it is run, in its order and in one folder, and prints what is shown there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
GUIDE = "\n".join(page.read_text() for page in sorted((ROOT / "clrtool" / "guide").glob("*.md")))
COMMANDS = ("rangetest", "merge", "compare", "plan", "plot", "init", "schema", "doctor")
# What the commands need beside what those before them have made.
FILES = {
    "broken.yaml": "model: {name: mlp}\ndata: {name: digits, batchsize: 32}\noptimizer: SGD\nloss: cross_entropy\n"
    "sweep:\n  epochs: 010\n"
}
# Options of torchrun, TensorBoard, make gpu and the like.
OF_OTHERS = {"--cpu", "--logdir", "--max-restarts", "--nnodes", "--nproc-per-node"}
# Rows of a comparison that no last digit can turn, as it can its verdict.
SURE = ("digits-compare", " policy", "bounds", "budget", "held out")
# What is not run here, by how it begins, and where it is run instead.
ELSEWHERE = {
    "make demo": "a test of its own would install everything anew; a fresh clone is tried by hand before a release",
    "make test": "this is one of its tests",
}


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands():
    """Every command of the README in its order, with what is shown of its output; None of a block without outputs."""
    for kind, block in re.findall(r"^```(sh|console)\n(.*?)^```", README, re.DOTALL | re.MULTILINE):
        whole = block.replace("\\\n", "")
        if kind == "sh":
            yield from ((line, None) for line in whole.splitlines() if line and not line.startswith("#"))
            continue
        for part in re.split(r"^\$ ", whole, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def letters(text):
    """The words without numbers, which differ in another torch on another processor; and without what the last digit of
    a loss can turn: how sweeps ended, and whether a fixed rate came out ahead of the cycles of short runs."""
    text = re.sub(r"^ sweep .*?(?=^ (?:held out|cost))", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r":\s+whichever\s+wins\s+can\s+be\s+used\.", ".", text)
    return [word for word in text.split() if word.isalpha()]


def beginnings(text):
    """The names of all rows, whose order follows what was measured, and the words of those that do not hang on it."""
    sure = [letters(line) for line in text.splitlines() if line.startswith(SURE)]
    return sorted(re.findall(r"^ ?(\w[\w ]*?) {2,}", text, re.MULTILINE)), sure


def wanted(command):
    """How an output is held against what the README shows."""
    if command.startswith("clrtool compare") or command.endswith("--dry-run"):
        return beginnings  # units and the order of policies follow what was measured
    measured = command.startswith("clrtool rangetest") or "--curve" in command or command == "clrtool plan digits"
    return letters if measured else str.split


def test_every_command_runs_as_it_stands_there_and_prints_what_is_shown(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    skipped = set()
    for command, shown in commands():
        if found := {each for each in ELSEWHERE if command.startswith(each)}:
            skipped |= found
            continue
        words = shlex.split(command, comments=True)
        assert words[0] == "clrtool", f"{command}: say in ELSEWHERE where it is run"
        done = cli(*words[1:])
        expected = 2 if "error: " in (shown or "") else 1 if re.search("stale:|findings", shown or "") else 0
        assert done.code == expected, f"{command}: {done.err}"
        if shown is not None:
            compared = wanted(command)
            assert compared(done.out or done.err) == compared(shown), command
    assert skipped == set(ELSEWHERE), "no longer in the README"


def test_every_command_and_option_has_its_real_name(process):
    text = README + GUIDE
    for command in set(re.findall(r"`?clrtool ([a-z]+)", text)) - {"runs"}:
        assert process(command, "--help").returncode == 0, command
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - OF_OTHERS
    helps = "".join(process(*command, "--help").stdout for command in [(), *((each,) for each in COMMANDS)])
    assert not {option for option in options if option not in helps}


def test_the_training_code_runs(digits_run, tmp_path, monkeypatch):
    block = next(block for block in blocks("python") if "PlanScheduler" in block)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(digits_run)
    import torch

    names = {"model": torch.nn.Linear(2, 2)}
    exec(block, names)  # noqa: S102 (it is our own README)
    assert names["scheduler"].get_last_lr() == [names["plan"].base_lr]


def test_the_config_of_every_key_is_valid(tmp_path):
    from clrtool.config.file import load_config

    (block,) = [block for block in blocks("yaml") if block.startswith("seed:")]
    (tmp_path / "all.yaml").write_text(block)
    load_config(tmp_path / "all.yaml")


def test_the_links_lead_to_files_and_to_headings():
    headings = {
        re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in re.findall(r"^#+ (.*)$", README, re.M)
    }
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert target[1:] in headings if target.startswith("#") else (ROOT / target).is_file(), target


def test_the_action_runs_as_it_stands_there(tmp_path):
    (action,) = [YAML(typ="safe").load(block) for block in blocks("yaml") if "composite" in block]
    (step,) = action["runs"]["steps"]
    assert step["env"] == {name: f"${{{{ inputs.{name.lower()} }}}}" for name in ("CONFIG", "FILE", "ALLOW")}
    given = {"CONFIG": "digits", "FILE": str(ROOT / "configs" / "digits.bounds.json")}
    given |= {"ALLOW": action["inputs"]["allow"]["default"]}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [step["shell"], "-e", "-c", step["run"]],
        cwd=tmp_path, env={**os.environ, **given, "PATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, "holds, for both bounds" in done.stderr) == (0, True), done.stderr
