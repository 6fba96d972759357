"""Imports go down only, and what is slow to import is imported only where it is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "clrtool"
FLOORS = {
    "core": 0,
    "errors": 0,
    "words": 0,
    "files": 0,
    "strict_yaml": 1,
    "config_faults": 1,
    "config": 1,
    "config_file": 1,
    "config_schema": 1,
    "shipped": 1,
    "engine": 2,
    "report": 2,
    "cli": 3,
    "notebook": 3,
    "lightning": 3,
    "transformers": 3,
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def part(file):
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize(
    "file", [file for file in FILES if part(file) in FLOORS], ids=lambda file: str(file.relative_to(PACKAGE))
)
def test_a_file_imports_its_own_floor_or_those_below(file):
    floor = FLOORS[part(file)]
    for name in imported(file):
        parts = name.split(".")
        if parts[0] == "clrtool" and len(parts) > 1:
            assert FLOORS[parts[1]] <= floor, f"{name} is above {file}"
            if FLOORS[parts[1]] == 2 and floor == 2:
                assert parts[1] == part(file), "engine and report do not know each other"


@pytest.mark.parametrize(
    ("module", "home"),
    [
        ("torch", "engine"),
        ("torchvision", "engine"),
        ("matplotlib", "report/plots/"),
        ("typer", "cli"),
        ("tensorboard", "report/tensorboard.py"),
    ],
)
def test_a_framework_is_imported_in_one_place_only(module, home):
    users = {
        file.relative_to(PACKAGE).as_posix()
        for file in FILES
        if any(name.split(".")[0] == module for name in imported(file))
    }
    assert users
    assert all(user.startswith(home) for user in users), users


def test_core_knows_numpy_and_the_standard_library_only():
    for file in (PACKAGE / "core").glob("*.py"):
        roots = {name.split(".")[0] for name in imported(file)}
        assert roots <= {"clrtool", "numpy", *sys.stdlib_module_names}, file


def test_only_the_command_line_prints_exits_or_reads_the_environment():
    for file in FILES:
        if part(file) in ("cli", "__main__"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in {"print", "sys.exit", "exit", "os.getenv"}, file
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in {"sys.argv", "os.environ"}, file


def modules_after(code):
    command = [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules, file=sys.stderr)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stderr.split())


def test_importing_clrtool_brings_in_nothing_slow():
    assert not {"torch", "matplotlib", "pydantic", "numpy"} & modules_after("import clrtool")


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["rangetest", "--help"],
        ["plan", "--base-lr", "1e-3", "--max-lr", "1e-2", "--iterations-per-epoch", "100"],
        ["plan", "--from", "torch:CyclicLR", "base_lr=0.1", "max_lr=0.2", "--format", "lightning"],
        ["plan", "--base-lr", "1e-3", "--max-lr", "1e-2", "--iterations-per-epoch", "100", "--format", "optax"],
        ["plan", "--base-lr", "1e-3", "--max-lr", "1e-2", "--iterations-per-epoch", "100", "--epochs", "32", "--lint"],
        ["schema"],
    ],
)
def test_commands_that_do_not_train_never_import_torch(words):
    code = f"from clrtool.cli.main import main\ntry: main({words})\nexcept SystemExit as stop: assert not stop.code"
    loaded = modules_after(code)
    assert "clrtool.cli.main" in loaded
    assert not {"torch", "torchvision", "matplotlib", "jax", "keras", "transformers", "lightning"} & loaded


def test_plot_and_plan_of_a_run_never_import_torch(digits_run, tmp_path):
    for words in (["plan", str(digits_run)], ["plot", str(digits_run), "-o", str(tmp_path / "a.png")]):
        code = f"from clrtool.cli.main import main\ntry: main({words})\nexcept SystemExit as stop: assert not stop.code"
        assert "torch" not in modules_after(code)


def test_every_public_name_loads():
    import clrtool

    for name in clrtool.__all__:
        assert getattr(clrtool, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = clrtool.nonsense
