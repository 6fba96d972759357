"""The project as a whole: the wheel, the README, and how long things are."""

import ast
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import clrtool

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The unpacked wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    zipfile.ZipFile(file).extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_the_configs_the_digits_and_the_licence(wheel):
    files = {path.relative_to(wheel).as_posix() for path in wheel.rglob("*") if path.is_file()}
    assert {"clrtool/configs/digits.yaml", "clrtool/configs/custom_factories.py", "clrtool/engine/digits.npz"} <= files
    assert f"clrtool-{clrtool.__version__}.dist-info/licenses/LICENSE" in files
    assert "clrtool/py.typed" in files
    assert not any(name.startswith(("tests", "configs")) for name in files)


def test_the_wheel_runs_far_from_the_sources(wheel, tmp_path):
    code = "import clrtool, sys; from clrtool.cli.main import main; print(clrtool.__file__, file=sys.stderr); main(['init'])"
    environment = os.environ | {"PYTHONPATH": str(wheel)}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert str(wheel) in run.stderr
    assert "digits" in run.stdout


def test_the_readme_gives_every_command_and_option_by_its_real_name(process):
    for command in set(re.findall(r"`?clrtool ([a-z]+)", README)) - {"runs"}:
        assert process(command, "--help").returncode == 0, command
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README))
    helps = "".join(process(command, "--help").stdout for command in ("rangetest", "plan", "plot"))
    assert not {option for option in options if option not in helps}


def test_the_readmes_training_code_runs(digits_run, tmp_path, monkeypatch):
    block = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "PlanScheduler" in block)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(digits_run)
    import torch

    names = {"model": torch.nn.Linear(2, 2)}
    exec(block, names)  # noqa: S102 (it is our own README)
    assert names["scheduler"].get_last_lr() == [names["plan"].base_lr]


def shown_commands():
    """The commands of the README that need no run, each with what the README shows of it."""
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.replace("\\\n", "").partition("\n")
            if command.startswith("clrtool plan") and "--" in command and "--curve" not in command:
                yield command.split()[1:], output


@pytest.mark.parametrize(("words", "output"), list(shown_commands()))
def test_the_readme_shows_what_the_command_prints_today(cli, words, output):
    assert cli(*words).out.split() == output.split()


def without_outcomes(text):
    """Without the rows that tell how each sweep ended, which the last digit of a loss can turn."""
    return re.sub(r"^ sweep .*?(?=^ held out)", "", text, flags=re.DOTALL | re.MULTILINE)


def test_the_readme_shows_the_range_test_and_its_plan_as_they_are_today(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    by_loss = ["rangetest", "digits", "-q", "metric=loss", "-o", "runs/by-loss"]
    first, plan, loss = cli("rangetest", "digits", "-q"), cli("plan", "digits"), cli(*by_loss)
    verified, curve = cli("rangetest", "digits", "-q", "--verify"), cli("plan", "--curve", "runs/digits/curve.csv")
    printed = [each.out for each in (first, plan, loss, verified, curve)]
    blocks = [
        block
        for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
        if re.search("rangetest digits|--curve", block)
    ]
    shown = [line for block in blocks for line in block.splitlines() if not line.startswith("$ ")]
    words, printed = without_outcomes("\n".join(shown)).split(), without_outcomes("".join(printed)).split()
    # numbers may differ in another torch on another processor, and times always do
    assert [word for word in words if word.isalpha()] == [word for word in printed if word.isalpha()]


def test_the_links_of_the_readme_lead_to_files():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target


def functions():
    for file in sorted((ROOT / "clrtool").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield f"{file.name}:{node.name}", node.end_lineno - node.lineno + 1


def test_a_function_fits_on_a_screen():
    lengths = dict(functions())
    assert max(lengths.values()) <= 50, max(lengths, key=lengths.get)
    assert sum(lengths.values()) / len(lengths) <= 15


def test_no_reader_of_pickles_and_no_evaluator_of_text_is_called():
    banned = {"eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "os.system"}
    for file in (ROOT / "clrtool").rglob("*.py"):
        text = file.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in banned, file
                if ast.unparse(node.func) == "torch.load":
                    assert "weights_only=True" in ast.unparse(node), file
        assert text.count("np.load(") == text.count("allow_pickle=False")
