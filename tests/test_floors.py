"""Imports go down only, and what is slow to import is imported only where it is used."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.benchmarks import structure

PACKAGE = Path(__file__).parent.parent / "clrtool"
FLOOR_0 = {"errors", "words", "files"}
CORE = {"core.schedules", "core.sources", "core.planning", "core.reading", "core.racing", "core.results"}
# The rooms of the package from the lowest up, each with the rooms that it imports. Nothing else may be imported, and
# what is no longer imported has to go from here.
ROOMS = {
    "errors": set(),
    "words": set(),
    "files": {"errors"},
    "core.schedules": set(),
    "core.sources": {"core.schedules", "words"},
    "core.planning": {"core.schedules", "core.sources", "words"},
    "core.reading": {"core.schedules", "words"},
    "core.racing": {"core.planning", "core.reading"},
    "core.results": {"core.schedules", "core.planning", "core.reading", "core.racing", "words"},
    "config": {"core.planning", "core.reading"} | FLOOR_0,
    "engine.runtime": {"__init__", "config"} | FLOOR_0,
    "engine.data": {"config", "core.reading", "engine.runtime"} | FLOOR_0,
    "engine.models": {"config", "engine.data", "engine.runtime"} | FLOOR_0,
    "engine.training": {
        "config", "core.planning", "core.racing", "core.reading", "core.results", "engine.data", "engine.models",
        "engine.runtime", "errors", "words",
    },
    "engine.configured": {
        "config", "core.reading", "engine.data", "engine.models", "engine.runtime", "engine.training",
    } | FLOOR_0,
    "engine.inprocess": {
        "config", "core.planning", "core.racing", "core.reading", "engine.data", "engine.models", "engine.runtime",
        "engine.training", "errors", "words",
    },
    "engine.resume": {"core.schedules", "core.racing", "core.reading", "core.results", "engine.runtime", "engine.training"} | FLOOR_0,
    "engine.rangetest": {
        "config", "core.schedules", "core.planning", "core.reading", "core.racing", "core.results", "engine.runtime",
        "engine.training", "engine.configured", "engine.resume", "errors", "words",
    },
    "report.records": CORE - {"core.sources"} | {"config"} | FLOOR_0,
    "report.text": CORE - {"core.sources"} | {"errors", "words"},
    "report.trainings": {"config", "core.sources", "core.planning", "report.records"} | FLOOR_0,
    "report.programs": {"config", "core.schedules", "core.sources", "core.planning", "report.records", "errors", "words"},
    "report.plots": CORE - {"core.sources"} | {"report.records", "report.text"} | FLOOR_0,
    "report.pages": {
        "__init__", "config", "core.planning", "core.reading", "core.results", "report.records", "report.text",
        "report.programs", "report.plots",
    } | FLOOR_0,
    "cli.run": {
        "config", "core.planning", "core.reading", "core.racing", "core.results", "engine.runtime", "engine.training",
        "engine.configured", "engine.resume", "engine.rangetest", "report.records", "report.text", "report.plots",
    } | FLOOR_0,
    "cli": {
        "__init__", "config", "core.schedules", "core.sources", "core.planning", "core.reading", "core.results",
        "engine.runtime", "engine.training", "engine.configured", "engine.resume", "engine.rangetest",
        "report.records", "report.text", "report.trainings", "report.programs", "report.plots", "report.pages", "cli.run",
    } | FLOOR_0,
    "api": {
        "core.planning", "core.reading", "core.results", "engine.runtime", "engine.training", "engine.inprocess",
        "engine.rangetest", "report.records", "report.text", "report.plots", "errors", "files", "words",
    },
    "lightning": {"core.planning", "engine.training", "engine.inprocess", "report.records", "api", "errors", "words"},
    "transformers": {
        "core.planning", "core.reading", "engine.runtime", "engine.training", "engine.inprocess", "api", "errors", "words",
    },
    "__main__": {"cli"},
}  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    file.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__") for file in FILES
}


@cache
def nodes(file):
    return list(ast.walk(ast.parse(file.read_text())))


@cache
def imported(file):
    """Whatever a file imports, inside functions and for type checking too: ``from package import module`` is a module."""
    return list(imports_of(file))


def imports_of(file):
    for node in nodes(file):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full.startswith("clrtool.") and full.removeprefix("clrtool.") in MODULES else node.module


def name_of(file):
    return file.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")


def room(module):
    """The room of a module, by its name inside the package."""
    parts = module.split(".")
    return next((name for end in (2, 1) if (name := ".".join(parts[:end])) in ROOMS), "__init__")


@cache
def neighbours():
    """The rooms that each room imports."""
    found = {name: set() for name in [*ROOMS, "__init__"]}
    for file in FILES:
        here = room(name_of(file))
        for name in imported(file):
            if name.split(".")[0] == "clrtool":
                found[here].add(room(name.removeprefix("clrtool.").removeprefix("clrtool")))
    return {here: there - {here} for here, there in found.items()}


@pytest.mark.parametrize("here", ROOMS)
def test_a_room_imports_what_is_declared_and_nothing_else(here):
    assert neighbours()[here] == ROOMS[here]


def test_rooms_are_imported_by_higher_ones_alone():
    order = ["__init__", *ROOMS]
    for here, below in ROOMS.items():
        assert all(order.index(each) < order.index(here) for each in below), here
    assert neighbours()["__init__"] == set(), "the public names load on first use"


def test_no_file_imports_itself_through_others():
    assert structure.circles(structure.imports(structure.sources(PACKAGE))) == []


def test_at_most_eight_frames_lie_between_the_command_line_and_a_training_step():
    main, *between, step = structure.run(PACKAGE.parent, is_watched=False).stack
    assert main.endswith(" main")
    assert "step" in step
    assert len(between) <= 8, between


@pytest.mark.parametrize(
    ("module", "home"),
    [
        ("torch", "engine"),
        ("torchvision", "engine"),
        ("matplotlib", "report/plots/"),
        ("typer", "cli"),
        ("tensorboard", "report/pages/tensorboard.py"),
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
    for file in (PACKAGE / "core").rglob("*.py"):
        roots = {name.split(".")[0] for name in imported(file)}
        assert roots <= {"clrtool", "numpy", *sys.stdlib_module_names}, file


def test_only_the_command_line_prints_exits_or_reads_the_environment():
    for file in FILES:
        if name_of(file).split(".")[0] in ("cli", "__main__"):
            continue
        for node in nodes(file):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in {"print", "sys.exit", "exit", "os.getenv"}, file
            if (
                isinstance(node, ast.Attribute) and name_of(file) != "engine.runtime.device"
            ):  # it has cuBLAS's switch set
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
        ["guide", "troubleshooting"],
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


@pytest.mark.parametrize("more", [[], ["--jobs", "2"]])
def test_a_range_test_says_its_first_words_before_torch_is_imported(tmp_path, more):
    code = (
        "import sys\nfrom clrtool.cli.main import main\nfrom clrtool.cli.run import folder\n"
        "def say(*_, **__):\n    print('torch' in sys.modules, file=sys.__stdout__)\n    raise SystemExit\n"
        f"folder.say = say\nmain(['rangetest', 'digits', *{more}])"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout == "False\n"
