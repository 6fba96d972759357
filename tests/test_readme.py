"""The README and the guide: every command in them is run, in its order, and prints what is shown there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.documents import ELSEWHERE, PAGES, README, ROOT, blocks, commands, cut, is_run, prepare, run, snippet

# Pages whose commands take as long as those of all others: the long form alone runs them.
SLOW = {name: pytest.mark.short(0) for name in ("compare", "many-gpus")}
COMMANDS = ("rangetest", "merge", "compare", "plan", "plot", "init", "guide", "schema", "doctor")
# Options of torchrun, TensorBoard, make gpu and the like.
OF_OTHERS = {
    "--cpu",
    "--entrypoint-num-gpus",
    "--logdir",
    "--max-restarts",
    "--nnodes",
    "--nproc-per-node",
    "--working-dir",
}
# Rows of a comparison that no last digit can turn, as it can its verdict.
SURE = ("digits-compare", " policy", "bounds", "budget")


def letters(text):
    """The words without numbers, which differ in another torch on another processor; and without what the last digit of
    a loss can turn: how sweeps ended, and whether a fixed rate came out ahead of the cycles of short runs."""
    text = re.sub(r"^ sweep .*?(?=^ (?:held out|cost))", "", text, flags=re.DOTALL | re.MULTILINE)
    return [word for word in text.split() if word.isalpha()]


def beginnings(text):
    """The names of all rows, whose order follows what was measured, and the words of those that do not hang on it."""
    sure = [letters(line) for line in text.splitlines() if line.startswith(SURE)]
    return sorted(re.findall(r"^ ?(\w[\w ]*?) {2,}", text, re.MULTILINE)), sure


def wanted(command):
    """How an output is held against what is shown."""
    if (
        command.startswith(("clrtool compare", "clrtool doctor"))
        or command.endswith("--dry-run")
        or "--vary" in command
    ):
        return beginnings  # units and the order of policies follow what was measured
    measured = command.startswith("clrtool rangetest") or "--curve" in command
    return letters if measured else str.split


@pytest.fixture(scope="module")
def after_readme(tmp_path_factory):
    """The folder in which every command of the README has been run; not to be changed."""
    folder, before = tmp_path_factory.mktemp("readme"), Path.cwd()
    prepare(folder)
    os.chdir(folder)
    try:
        hold(README)
    finally:
        os.chdir(before)
    return folder


def hold(page):
    """Run what a page shows, and hold the outputs against it."""
    for command, shown in commands(page):
        if not is_run(command):
            continue
        code, output = run(command)
        expected = 2 if "error: " in (shown or "") else 1 if re.search("stale:|findings?", shown or "") else 0
        assert code == expected, f"{command}: {output}"
        if shown is not None:
            compared = wanted(command)
            assert compared(cut(output, shown)) == compared(shown), command


def test_every_command_of_the_readme_prints_what_is_shown(after_readme):
    assert (after_readme / "runs" / "digits" / "result.json").is_file()


@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.stem, marks=SLOW.get(page.stem, ())) for page in PAGES[1:]]
)
def test_every_command_of_a_page_prints_what_is_shown_after_those_of_the_readme(
    page, after_readme, tmp_path, monkeypatch
):
    if not list(commands(page)):
        return
    shutil.copytree(after_readme, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    hold(page)


def test_what_is_run_elsewhere_is_still_shown():
    shown = [command for page in PAGES for command, _ in commands(page)]
    assert [start for start in ELSEWHERE if not any(command.startswith(start) for command in shown)] == []


def test_the_readme_has_a_first_screen_and_an_end():
    lines = README.read_text().splitlines()
    assert len(lines) <= 180
    first = "\n".join(lines[:60])
    for part in (
        "range_test.png",
        "pip install",
        "clrtool rangetest digits",
        "clrtool.range_test(",
        "fastai",
        "guide/",
    ):
        assert part in first, part


def test_every_command_and_option_has_its_real_name(process):
    text = "\n".join(page.read_text() for page in PAGES)
    for command in set(re.findall(r"(?:`|^(?:\$ )?)clrtool ([a-z]+)", text, re.MULTILINE)):
        assert process(command, "--help").returncode == 0, command
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - OF_OTHERS
    asked = [[each, flag] for each in COMMANDS for flag in ("--help", "--help-all")]
    helps = "".join(process(*words).stdout for words in [["--help"], *asked])
    assert not {option for option in options if option not in helps}


def test_the_training_code_runs_on_what_the_commands_before_it_have_left(after_readme, monkeypatch):
    monkeypatch.chdir(after_readme)
    names = {"__name__": "train"}
    exec(snippet("class Net"), names)  # noqa: S102 (it is our own README)
    names["model"] = names["Net"]()
    exec(snippet("read_run"), names)  # noqa: S102
    plan, optimizer = names["plan"], names["optimizer"]
    optimizer.step()
    names["scheduler"].step()
    assert optimizer.param_groups[0]["lr"] == plan.lr(1) > plan.base_lr


def test_the_config_of_every_key_is_valid(tmp_path):
    from clrtool.config.file import load_config

    (block,) = [block for block in blocks("yaml") if block.startswith("seed:")]
    (tmp_path / "all.yaml").write_text(block)
    load_config(tmp_path / "all.yaml")


def test_a_config_that_init_writes_has_the_method_that_the_readme_calls_the_default(tmp_path):
    from clrtool.config.file import load_config
    from clrtool.report.programs.starter import starter

    for model, data in (("mlp", "digits"), ("train:Net", "train:get_data"), ("torchvision.resnet18", "npz:a.npz")):
        (tmp_path / "mine.yaml").write_text(starter(model, data, "mine.yaml"))
        assert load_config(tmp_path / "mine.yaml").sweep.races, (model, data)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_links_lead_to_files_and_to_headings(page):
    for target in re.findall(r"\]\((?!http)([^)\s]+)\)", page.read_text()):
        path, _, heading = target.partition("#")
        there = page.parent / path if path else page
        assert there.is_file(), target
        if heading:
            assert heading in headings(there), target


def headings(page):
    found = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in found}


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
    assert (done.returncode, "holds: both bounds" in done.stderr) == (0, True), done.stderr
