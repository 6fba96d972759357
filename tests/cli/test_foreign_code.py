"""Only code that was allowed runs, from where its user has it: not what lies beside it, nor what a shard says."""

import json
import os
import py_compile
import re
import shlex
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES

import pytest

from clrtool.engine.resume.checkpoint import CheckpointFolder
from clrtool.engine.runtime.code_hash import code_hashes
from clrtool.engine.runtime.imports import import_module
from tests.conftest import QUICK

# A package as they are: it takes more where there is more.
GREEDY = """
import importlib
try:
    import {trap}
except ImportError:
    pass
def make():
    for name in ("{lazy}", "{dynamic}"):
        try:
            importlib.import_module(name)
        except ImportError:
            pass
    from torch import nn
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""
# What torch, matplotlib and others look for, and find where they were started if nobody sees to it.
NAMES = ("torch", "numpy", "matplotlib", "usercustomize", "secrets", "apex", "brotli", "typer", "cv2")
TRAP = "from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\n"


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder of installed packages, one of which imports what is not installed; and another with files of these names."""
    site, project = tmp_path / "site-packages", tmp_path / "project"
    (site / "greedy").mkdir(parents=True)
    project.mkdir()
    (site / "greedy" / "__init__.py").write_text(GREEDY.format(trap="trap_one", lazy="trap_two", dynamic="trap_three"))
    for name in ("trap_one", "trap_two"):
        (project / f"{name}.py").write_text(TRAP)
    (project / "trap_three").mkdir()
    (project / "trap_three" / "__init__.py").write_text(TRAP)
    monkeypatch.setenv("PYTHONPATH", f"{site}:{':'.join(path for path in sys.path if path)}")
    return project


CONFIG = "model: {{factory: '{factory}'}}\ndata: {{name: digits}}\n"


@pytest.mark.short(0)
@pytest.mark.parametrize("where", ["beside", "here", "both"])
def test_optional_imports_of_an_allowed_package_find_nothing_beside_the_config(new_process, packages, tmp_path, where):
    here = packages if where != "beside" else tmp_path
    config = tmp_path / "mine.yaml" if where == "here" else packages / "mine.yaml"
    config.write_text(CONFIG.format(factory="greedy:make"))
    done = new_process("rangetest", config, *QUICK, "--allow-import", "greedy:make", "-o", tmp_path / "run", cwd=here)
    assert done.returncode in (0, 3), done.stderr
    assert not list(packages.rglob("*.ran"))


def test_a_factory_has_its_own_folder_and_packages_that_it_imports_have_neither_that_nor_the_current_one(
    new_process, packages, tmp_path
):
    (packages / "mine.yaml").write_text(CONFIG.format(factory="own.nets:make"))
    (packages / "own").mkdir()
    (packages / "own" / "nets.py").write_text(
        "import own_helper\nfrom own.part import width\nimport greedy\n"
        "def make():\n    import own_late\n    own_helper.said, own_late.said\n    return greedy.make()\n"
    )
    (packages / "own" / "part.py").write_text("width = 1\n")
    for name in ("own_helper", "own_late"):
        (packages / f"{name}.py").write_text("said = 1\n")
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(TRAP)
    words = ["rangetest", packages / "mine.yaml", *QUICK, "--allow-import", "own.nets:*", "-o", tmp_path / "run"]
    done = new_process(*words, cwd=tmp_path)
    assert done.returncode in (0, 3), done.stderr
    assert not list(tmp_path.rglob("*.ran"))
    sources = json.loads((tmp_path / "run" / "result.json").read_text())["sources"]
    assert set(sources) == {"own.nets", "own.part", "own_helper", "own_late"}


@pytest.mark.short(0)
def test_files_in_the_current_folder_take_the_place_of_nothing(new_process, tmp_path):
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(TRAP)
    done = new_process("rangetest", "digits", *QUICK, "-o", "run", cwd=tmp_path)
    assert done.returncode in (0, 3), done.stderr
    assert not list(tmp_path.rglob("*.ran"))


def test_no_name_of_the_standard_library_is_looked_for_in_the_current_folder(tmp_path):
    for name in {*sys.stdlib_module_names, "sitecustomize", "torch", "numpy", "rich", "click", "pydantic"}:
        (tmp_path / f"{name}.py").write_text(TRAP)
    words = ["plan", "--base-lr", "0.1", "--max-lr", "0.2", "--iterations-per-epoch", "9", "-o", "a.png"]
    # as the script that pip installs: without -P Python itself looks into the current folder, before we begin
    done = subprocess.run(
        [sys.executable, "-P", "-m", "clrtool", *words], cwd=tmp_path, capture_output=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*.ran"))


def sharded(process, folder, *words):
    for number in ("1/2", "2/2"):
        done = process("rangetest", "mine.yaml", *QUICK, *words, "--seed-shard", number, "-o", "run", cwd=folder)
        assert done.returncode == 0, done.stderr


def rewrite(folder, change):
    store = CheckpointFolder(folder / "checkpoint")
    values = store.load().values
    change(values)
    store.save(values)


def test_a_shard_does_not_say_where_allowed_code_comes_from(process, tmp_path):
    home, bad = tmp_path / "home", tmp_path / "bad"
    home.mkdir()
    bad.mkdir()
    process("init", "custom", "mine.yaml", cwd=home)
    allow = ["--allow-import", "custom_factories:*"]
    sharded(process, home, *allow)
    (bad / "custom_factories.py").write_text(TRAP + (home / "custom_factories.py").read_text())
    for shard in (home / "run" / "shards").iterdir():
        shutil.copy(bad / "custom_factories.py", shard)
        rewrite(shard, lambda values: values["finished"]["share"].update(folder=str(bad), command=["doctor"]))
    done = process("merge", home / "run", *allow, "-q", cwd=tmp_path)
    assert done.returncode == 2, "there is none in the current folder"
    assert "No module named 'custom_factories'" in done.stderr
    done = process("merge", home / "run", *allow, "-q", "--config", home / "mine.yaml", cwd=tmp_path)
    assert done.returncode in (0, 3), done.stderr
    assert not list(tmp_path.rglob("*.ran"))


def test_what_a_shard_says_is_never_printed_as_a_command(process, tmp_path):
    (tmp_path / "mine.yaml").write_text("data: {name: digits}\nmodel: {name: mlp}\n")
    sharded(process, tmp_path)
    shutil.rmtree(tmp_path / "run" / "shards" / "2-of-2")
    words = ["rangetest", "mine.yaml", "--allow-import", "os:*"]
    rewrite(tmp_path / "run" / "shards" / "1-of-2", lambda values: values["finished"]["share"].update(command=words))
    done = process("merge", "run", "-q", cwd=tmp_path)
    assert done.returncode == 2
    assert "shard 2/2 is missing" in done.stderr
    assert "--seed-shard 2/2" in done.stderr
    assert "os:" not in done.stderr


WRONG = {
    "a shard as a number": lambda values: values["finished"]["share"].update(shard=2),
    "a shard of none": lambda values: values["finished"]["share"].update(shard="3/2"),
    "no results": lambda values: values.update(finished=[1]),
    "a seed as a text": lambda values: values["finished"].update({"seed 0 from 0.001": "all of it"}),
    "points as texts": lambda values: values["finished"].update({"seed 0 from 0.001": ("eager", "COMPLETED", [("a",) * 6])}),
    "an unknown outcome": lambda values: values["finished"].update({"seed 0 from 0.001": ("eager", "WON", [])}),
    "a scout as a text": lambda values: values["finished"].update(scout="fast"),
    "seconds as a list": lambda values: values.update(seconds=[1, 2]),
    "an environment as a list": lambda values: values.update(environment=["linux"]),
    "warnings as numbers": lambda values: values.update(warnings=[1, 2]),
    "sources as a text": lambda values: values.update(sources="all"),
    "seconds that are no number": lambda values: values.update(seconds={"train": float("nan")}),
    "parts as a text": lambda values: values.update(micro_batches="two"),
    "a range that ends where it starts": lambda values: values["finished"].update(scout=(1.0, 1.0, 10)),
    "a point before the first": lambda values: values["finished"].update({"seed 1 from 0.001": ("eager", "COMPLETED", [(-1, 0.1, 0.1, 1.0, 1.0, 0.5)])}),
}  # fmt: skip


@pytest.fixture(scope="module")
def two_shards(zygote, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for number in ("1/2", "2/2"):
        done = zygote.run(["rangetest", "digits", *QUICK, "--seed-shard", number, "-o", "run"], cwd=folder)
        assert done.status == 0, done.err
    return folder / "run"


@pytest.mark.parametrize("wrong", WRONG)
def test_a_shard_of_a_wrong_type_is_a_message(cli, two_shards, tmp_path, wrong):
    run = shutil.copytree(two_shards, tmp_path / "run")
    rewrite(run / "shards" / "2-of-2", WRONG[wrong])
    done = cli("merge", run, "-q")
    assert done.code == 2, done.err
    assert "2-of-2: " in done.err


@pytest.mark.parametrize("place", [["shards", "1-of-2"], ["shards", "2-of-2", "checkpoint"], ["again"]])
def test_a_merge_into_a_shard_is_refused_and_leaves_it_as_it_is(cli, two_shards, tmp_path, place):
    run = shutil.copytree(two_shards, tmp_path / "run")
    (run / "again").symlink_to(run / "shards" / "2-of-2")
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    done = cli("merge", run, "-o", run.joinpath(*place))
    assert (done.code, "which is left unchanged" in done.err) == (2, True)
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    assert cli("merge", run, "-q").code in (0, 3)


@pytest.mark.parametrize("place", ["nothing", "a file", "a loop"])
def test_what_is_no_folder_of_shards_is_named(cli, tmp_path, place):
    (tmp_path / "a file").touch()
    (tmp_path / "a loop").symlink_to("a loop")
    done = cli("merge", place)
    assert (done.code, f"{place}: no such folder" in done.err) == (2, True)


NET = """
'''A net.'''
import helping
WIDTH = 64
def make():  # the factory
    '''Make it.'''
    return helping.scaled(WIDTH)
def unused():
    return 1
"""
HELPING = "def scaled(width):\n    return width * 2\ndef other():\n    return 3\n"


def hashes(folder):
    return code_hashes(["netting:make"], [folder])


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("netting", "# the factory", "# another remark", []),
        ("netting", "'''Make it.'''", "'''Make another.'''", []),
        ("netting", "    return 1", "    return 2", []),
        ("netting", "\ndef unused", "\n\n\n\ndef unused", []),
        ("netting", "    return 1", "    return 1\nif __name__ == '__main__':\n    make()", []),
        ("netting", "WIDTH = 64", "WIDTH = 65", ["netting"]),
        ("netting", "(WIDTH)", "(WIDTH) + unused()", ["netting"]),
        ("netting", "(WIDTH)", "(WIDTH) + globals()['un' + 'used']()", ["helping", "netting"]),
        ("netting", "def unused", "@print\ndef unused", ["netting"]),
        ("netting", "def unused()", "def unused(by=print(end=''))", ["netting"]),
        ("netting", "def unused()", "def unused(by=3)", []),
        ("netting", "def unused", "class Patch:\n    helping.other = print\ndef unused", ["helping", "netting"]),
        ("netting", "def unused", "class Patch:\n    print(end='')\ndef unused", ["netting"]),
        ("netting", "def unused", "class Patch:\n    def a(self, b=print()): ...\ndef unused", ["netting"]),
        ("netting", "def unused", "class Plain:\n    rate = 3\n    def a(self): print()\ndef unused", []),
        ("helping", "width * 2", "10 * width", ["helping"]),
        ("helping", "return 3", "return 4", []),
        ("helping", "def other", "print('imported')\ndef other", ["helping"]),
    ],
)
def test_a_hash_of_code_is_one_of_what_runs(tmp_path, file, old, new, changed):
    (tmp_path / "netting.py").write_text(NET)
    (tmp_path / "helping.py").write_text(HELPING)
    before = hashes(tmp_path)
    path = tmp_path / f"{file}.py"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    after = hashes(tmp_path)
    assert set(before) == set(after) == {"netting", "helping"}
    assert [name for name in sorted(after) if before[name] != after[name]] == changed


@pytest.mark.parametrize(
    "line",
    [
        "import_module('helping').scaled",
        "__import__('helping', globals()).scaled",
        "pkgutil.resolve_name('helping:scaled')",
        "pydoc.locate('helping.scaled')",
        "runpy.run_path('helping.py')['scaled']",
        "SourceFileLoader('x', './helping.py').load_module().scaled",
        "util.spec_from_file_location('x', Path(__file__).with_name('helping.py'))",
        "(exec(open('helping.py').read()), scaled)[1]",
        "instantiate({'_target_': 'helping.scaled'})",
    ],
)
def test_a_module_that_is_imported_by_a_text_is_hashed_too(tmp_path, line):
    (tmp_path / "netting.py").write_text(
        f"import pkgutil, pydoc, runpy\nfrom importlib import import_module\ndef make():\n    return {line}(2)\n"
    )
    (tmp_path / "helping.py").write_text(HELPING)
    before = hashes(tmp_path)
    (tmp_path / "helping.py").write_text(HELPING.replace("width * 2", "10 * width"))
    after = hashes(tmp_path)
    assert before["netting"] == after["netting"]
    assert before["helping"] != after["helping"]


def test_packages_and_relative_imports_are_followed_and_nothing_is_run(tmp_path):
    package = tmp_path / "packed"
    (package / "deep").mkdir(parents=True)
    files = {
        "__init__": "raise RuntimeError",
        "nets": "from . import layers\nfrom .deep.inner import width\nimport torch\ndef make(): ...",
        "layers": "def layer(): ...",
        "unused": "1",
        "deep/__init__": "",
        "deep/inner": "from .. import sibling\nwidth = 1",
        "sibling": "x = 1",
    }
    for name, text in files.items():
        (package / f"{name}.py").write_text(text)
    found = code_hashes(["packed.nets:make"], [tmp_path])
    inside = {"packed", "packed.nets", "packed.layers", "packed.deep", "packed.deep.inner", "packed.sibling"}
    assert set(found) == inside
    assert "packed" not in sys.modules
    (package / "nets.py").write_text("def make(:")
    assert set(code_hashes(["packed.nets:make"], [tmp_path])) == {"packed", "packed.nets"}, (
        "it cannot be read, and is told later"
    )


def test_a_module_is_found_for_itself_and_for_nobody_else(tmp_path):
    (tmp_path / "named_alone.py").write_text("import named_neighbour\n")
    (tmp_path / "named_neighbour.py").write_text("value = 3\n")
    assert import_module("named_alone", [tmp_path]).named_neighbour.value == 3
    del sys.modules["named_neighbour"]
    with pytest.raises(ModuleNotFoundError):
        import named_neighbour  # noqa: F401
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize("place", ["recompiled.py", "recompiled/__init__.py", "recompiled/deep/inner.py"])
def test_code_is_what_its_source_says_though_compiled_code_lies_beside_it(tmp_path, monkeypatch, place):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    for folder in (each for each in file.parents if each.is_relative_to(tmp_path / "recompiled")):
        (folder / "__init__.py").touch()
    name = place.removesuffix(".py").replace("/", ".").removesuffix(".__init__")

    def value():
        for each in [each for each in sys.modules if each.partition(".")[0] == "recompiled"]:
            del sys.modules[each]
        return import_module(name, [tmp_path]).value

    file.write_text("value = 1\n")
    assert value() == 1
    assert not list(tmp_path.rglob("__pycache__")), "nothing is written beside a config"
    py_compile.compile(str(file))
    times = file.stat()
    file.write_text("value = 2\n")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert value() == 2


# How a factory's file may come to code beside it, so that Python's own finders and loaders take it.
BY_PYTHON = {
    "a folder on sys.path": "sys.path.insert(0, HERE)\nimport brought",
    "a package in one": "sys.path.append(os.path.dirname(HERE))\nimport lent.brought as brought",
    "a file by its place": "from importlib import util\nspec = util.spec_from_file_location('brought', HERE + '/brought.py')\n"
    "spec.loader.exec_module(brought := util.module_from_spec(spec))",
}


@pytest.mark.parametrize("way", BY_PYTHON)
def test_what_allowed_code_brings_itself_is_what_its_source_says_too(tmp_path, monkeypatch, way):
    """Forged compiled code of the same time and size beside it, and a library that Python would take first."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "lent" / "brought.py"
    file.parent.mkdir()
    (file.parent / "__init__.py").touch()
    file.write_text("value = 'forged'\n")
    py_compile.compile(str(file))
    times = file.stat()
    file.write_text("value = 'honest'\n")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    file.with_suffix(EXTENSION_SUFFIXES[0]).write_bytes(b"no library")
    (tmp_path / "brings.py").write_text(f"import os, sys\nHERE = {str(file.parent)!r}\n{BY_PYTHON[way]}\n")
    for name in ("brings", "brought", "lent", "lent.brought"):
        sys.modules.pop(name, None)
    assert import_module("brings", [tmp_path]).brought.value == "honest"


@pytest.mark.parametrize("place", ["prebuilt", "prebuilt.deep"])
def test_source_comes_before_what_was_built_of_it_and_a_library_is_taken_where_there_is_none(tmp_path, place):
    folder = tmp_path.joinpath(*place.split(".")[:-1])
    folder.mkdir(exist_ok=True)
    source = folder / f"{place.rpartition('.')[2]}.py"
    source.write_text("value = 1\n")
    py_compile.compile(str(source), str(source.with_suffix(".pyc")))
    library = source.with_suffix(EXTENSION_SUFFIXES[0])
    library.write_bytes(b"no library")
    for name in [name for name in sys.modules if name.startswith("prebuilt")]:
        del sys.modules[name]
    assert import_module(place, [tmp_path]).value == 1
    before = code_hashes([f"{place}:value"], [tmp_path])
    source.unlink()
    del sys.modules[place]
    with pytest.raises(ImportError, match=re.escape(str(library))):
        import_module(place, [tmp_path])
    assert code_hashes([f"{place}:value"], [tmp_path]).keys() == before.keys()
    library.unlink()
    with pytest.raises(ModuleNotFoundError, match=place):
        import_module(place, [tmp_path])


@pytest.fixture
def custom(process, tmp_path):
    process("init", "custom", "mine.yaml", cwd=tmp_path)
    (tmp_path / "more.py").write_text("SCALE = 1\n")
    code = tmp_path / "custom_factories.py"
    code.write_text("import more\n" + code.read_text())
    words = ["rangetest", "mine.yaml", *QUICK, "--allow-import", "custom_factories:*"]
    assert process(*words, "--write", "mine.json", cwd=tmp_path).returncode == 0
    return words


def test_a_finished_run_of_other_code_is_not_shown_as_that_of_this(process, custom, tmp_path):
    (tmp_path / "more.py").write_text("SCALE = 1  # a remark\n")
    again = process(*custom, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    (tmp_path / "more.py").write_text("SCALE = 10\n")
    done = process(*custom, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "runs/mine was measured with different code or weights (more changed); use --fresh" in done.stderr
    checked = process(*custom, "--check", "mine.json", cwd=tmp_path)
    assert checked.returncode == 1
    assert "more: its hash has changed" in checked.stderr
    mend = re.search(r"to fix it: (.*)", checked.stderr)[1]
    assert process(*shlex.split(mend)[1:], cwd=tmp_path).returncode == 0, "the command that is printed works"
    assert process(*custom, "--check", "mine.json", cwd=tmp_path).returncode == 0


@pytest.mark.short(1)
@pytest.mark.parametrize("change", [["data.batch_size=64"], ["model.args={hidden: [16]}", "-o", "a place/run"]])
def test_the_command_that_mends_a_stale_file_is_one_that_works(process, tmp_path, change):
    words = ["rangetest", "digits", *QUICK, "-o", "run"]
    assert process(*words, "--write", "kept.json", cwd=tmp_path).returncode == 0
    checked = process(*words, *change, "--check", "kept.json", cwd=tmp_path)
    assert checked.returncode == 1
    mend = shlex.split(re.search(r"to fix it: (.*)", checked.stderr)[1])
    assert process(*mend[1:], cwd=tmp_path).returncode == 0
    assert process(*words, *change, "--check", "kept.json", cwd=tmp_path).returncode == 0


@pytest.fixture(scope="module")
def shards(zygote, tmp_path_factory):
    """Two shards of a sweep, finished."""
    folder = tmp_path_factory.mktemp("shards") / "digits"
    for shard in ("1/2", "2/2"):
        words = ["rangetest", "digits", *QUICK, "sweep.method=paper", "--seed-shard", shard, "-o", folder]
        assert zygote.run(words).status == 0
    return folder


def with_points(change):
    def changed(finished):
        (name,) = (each for each in finished if each.startswith("seed "))
        engine, outcome, points = finished[name]
        finished[name] = engine, outcome, [tuple(point) for point in change([[*point] for point in points])]

    return changed


def with_column(place, value):
    return with_points(lambda points: [[*point[:place], value, *point[place + 1 :]] for point in points])


HOSTILE_RESULTS = {
    "no evaluation": with_points(lambda _: []),
    "evaluations from the last to the first": with_points(lambda points: points[::-1]),
    "each evaluation twice": with_points(lambda points: points + points),
    "one iteration": with_column(0, 3),
    "one rate": with_column(2, 0.1),
    "no rate": with_column(2, float("nan")),
    "an infinite rate": with_column(2, float("inf")),
    "rates from zero": with_points(lambda points: [[*p[:2], float(n), *p[3:]] for n, p in enumerate(points)]),
    "more than all right": with_column(5, 1e308),
    "less than nothing right": with_column(5, -1.0),
    "a scout without a range": lambda finished: finished.update(scout=(1.0, 1.0, 5)),
    "a scout from nothing": lambda finished: finished.update(scout=(5e-324, 1e308, 5)),
}


@pytest.mark.parametrize("change", HOSTILE_RESULTS.values(), ids=HOSTILE_RESULTS)
def test_what_no_sweep_can_measure_is_no_result_of_a_shard(cli, shards, tmp_path, change):
    folder = shutil.copytree(shards, tmp_path / "digits")
    saved = CheckpointFolder(folder / "shards" / "1-of-2" / "checkpoint")
    values = saved.load().values
    change(values["finished"])
    saved.save(values)
    done = cli("merge", folder)
    assert done.code == 2, done.err
    assert re.search("not written by this clrtool|clrtool did not write", done.err)


@pytest.mark.parametrize(
    "text", ["[NaN, 1, 5]", "[1, 0.1, 5]", "[0, 1, 5]", "[1e-5, 1e400, 5]", "[" * 100_000, '{"a": 1}']
)
def test_a_range_that_is_none_is_not_agreed_on(cli, tmp_path, text):
    words = [
        "rangetest",
        "digits",
        "sweep.epochs=1",
        "sweep.method=paper",
        "--seeds",
        "2",
        "-q",
        "-o",
        tmp_path / "run",
    ]
    assert cli(*words, "--seed-shard", "1/2").code == 0
    for agreed in (tmp_path / "run" / "shards").glob("scout-*"):
        agreed.write_text(text)
    shutil.rmtree(tmp_path / "run" / "shards" / "1-of-2")
    done = cli(*words, "--seed-shard", "2/2")
    assert done.code == 0, done.err
