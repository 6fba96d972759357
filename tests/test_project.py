"""The project as a whole: the wheel, how long things are, what may run code, and the workflows."""

import ast
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import clrtool
from clrtool.cli.guide import TOPICS
from tests.audit import verdict

ROOT = Path(__file__).parent.parent


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
    assert {"clrtool/configs/digits.yaml", "clrtool/engine/data/digits.npz"} <= files
    assert {f"clrtool/configs/{name}_factories.py" for name in ("custom", "caffe")} <= files
    assert f"clrtool-{clrtool.__version__}.dist-info/licenses/LICENSE" in files
    assert {"clrtool/py.typed", *(f"clrtool/guide/{topic}.md" for topic in TOPICS)} <= files
    assert not any(name.startswith(("tests", "configs")) for name in files)


def test_the_wheel_runs_far_from_the_sources(wheel, tmp_path):
    code = "import clrtool, sys; from clrtool.cli.main import main; print(clrtool.__file__, file=sys.stderr); main(['init', '--list'])"
    environment = os.environ | {"PYTHONPATH": str(wheel)}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert str(wheel) in run.stderr
    assert "digits" in run.stdout


def test_the_wheel_shows_its_guide_far_from_the_sources(wheel, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(wheel)}
    command = [sys.executable, "-c", "from clrtool.cli.main import main; main(['guide', 'resume'])"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == (ROOT / "clrtool" / "guide" / "resume.md").read_text()


RELATIVE = re.compile(r"\]\((?!https?://)[^)]*\)")


def test_the_package_page_has_no_path_that_leads_nowhere(wheel):
    (metadata,) = wheel.glob("*.dist-info/METADATA")
    assert "# clrtool" in metadata.read_text()
    assert RELATIVE.findall(metadata.read_text()) == []


@pytest.fixture
def description():
    sys.path.insert(0, str(ROOT / ".ci"))
    try:
        import description

        return description
    finally:
        sys.path.remove(str(ROOT / ".ci"))


def test_where_the_project_lies_every_path_of_the_readme_is_an_address(description):
    readme = (ROOT / "README.md").read_text()
    whole = description.described(readme, "https://example.org/a/clrtool", "v1")
    assert RELATIVE.findall(whole) == []
    for path in re.findall(r"(?<!!)\[[^\]]+\]\((?!https?:)([^)]+)\)", readme):
        assert f"(https://example.org/a/clrtool/blob/v1/{path})" in whole
    assert "(https://example.org/a/clrtool/raw/v1/.github/range_test.png)" in whole


def test_where_the_project_lies_is_what_the_builder_says(description):
    actions = {"GITHUB_SERVER_URL": "https://example.org", "GITHUB_REPOSITORY": "a/b", "GITHUB_SHA": "c0ffee"}
    assert description.address(actions) == ("https://example.org/a/b", "c0ffee")
    assert description.address(actions | {"CLRTOOL_URL": "https://x.org/y/"})[0] == "https://x.org/y"
    assert description.address({}) == ("", "main")


def test_the_version_is_the_same_wherever_it_stands():
    cited = YAML(typ="safe").load((ROOT / ".github" / "CITATION.cff").read_text())
    assert str(cited["version"]) == clrtool.__version__
    assert f"\n## {clrtool.__version__}\n" in (ROOT / "clrtool" / "guide" / "changelog.md").read_text()
    assert f'version = "{clrtool.__version__}"' in (ROOT / "pyproject.toml").read_text()


def functions():
    for file in sorted((ROOT / "clrtool").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield f"{file.relative_to(ROOT)}:{node.lineno} {node.name}", node.end_lineno - node.lineno + 1


def test_a_function_fits_on_a_screen():
    lengths = dict(functions())
    assert max(lengths.values()) <= 50, max(lengths, key=lengths.get)
    assert sum(lengths.values()) / len(lengths) <= 15


# Modules that run what they read, start programs or import by name, and files that files.py does not make.
BANNED_MODULES = {
    "pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "importlib", "runpy", "subprocess", "pty", "tempfile"
}  # fmt: skip
BANNED_NAMES = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"}
BANNED_STEMS = ("os.exec", "os.spawn", "os.posix_spawn")
# A call of these must say that it runs nothing.
SAFE_ONLY_WITH = {"torch.load": "weights_only=True", "numpy.load": "allow_pickle=False"}
EXCEPTIONS = {
    ("__init__.py", "importlib"): "the public names load on first use, from a table of our own modules",
    (
        "cli/run/subprocesses.py",
        "subprocess",
    ): "it starts clrtool itself, by the words of its own command line and no shell",
    ("cli/doctor.py", "importlib.metadata"): "it reads the versions of packages and imports none",
    ("cli/commands.py", "importlib"): "it imports the command of a name in its own list",
    ("cli/main.py", "importlib.metadata"): "it reads the versions of packages and imports none",
    ("engine/configured/torch_metrics.py", "importlib"): "it imports parts of torchmetrics, from a table of ours",
    (
        "engine/runtime/imports.py",
        "importlib",
    ): "the one place that imports a user's code, where the command line allows it",
    ("engine/runtime/imports.py", "importlib.machinery"): "it finds where a user's code lies",
    ("engine/runtime/code_modules.py", "importlib.machinery"): "it finds where a user's code lies, and runs none",
    ("report/plots/own_defaults.py", "importlib.util"): "it finds where matplotlib lies",
    ("cli/trial.py", "importlib.util"): "it finds whether a package is installed, and imports none",
    ("cli/trial.py", "subprocess"): "it starts clrtool's own trial_child, by words of ours and no shell",
    ("cli/trial_child.py", "importlib"): "it imports packages, from a table of ours",
    (
        "cli/trial_child.py",
        "exec",
    ): "it runs what clrtool has just printed: names of ours, and literals of values that were read back",
    (
        "engine/rangetest/processes.py",
        "pickle",
    ): "a program's own objects, sent by it to the processes that it starts",
    ("files.py", "tempfile"): "the one place that makes temporary files",
}


def unsafe(text):
    """The full names of what a source uses that can run code, whatever it calls them."""
    tree = ast.parse(text)
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            for alias in node.names:
                full = f"{module}.{alias.name}" if module else alias.name
                aliases[alias.asname or alias.name] = full
                if full.split(".")[0] in BANNED_MODULES:
                    yield module or full
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            name = full_name(node, aliases)
            if name in BANNED_NAMES or name.startswith(BANNED_STEMS):
                yield name
        if isinstance(node, ast.Call):
            name, words = full_name(node.func, aliases), [ast.unparse(each) for each in (*node.args, *node.keywords)]
            unsafe_yaml = name.split(".")[-1] == "YAML" and any("unsafe" in word for word in words)
            if unsafe_yaml or (name in SAFE_ONLY_WITH and SAFE_ONLY_WITH[name] not in words):
                yield name


def full_name(node, aliases):
    head, dot, rest = ast.unparse(node).partition(".")
    return aliases.get(head, head) + dot + rest


def test_no_reader_of_pickles_and_no_evaluator_of_text_is_used_but_where_it_is_stated():
    package = ROOT / "clrtool"
    found = {
        (file.relative_to(package).as_posix(), name)
        for file in package.rglob("*.py")
        for name in unsafe(file.read_text())
    }
    assert found - EXCEPTIONS.keys() == set(), "state a reason in EXCEPTIONS, or do without"
    assert EXCEPTIONS.keys() - found == set(), "no longer needed"


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "import pickle as safe",
        "from pickle import loads",
        "from cloudpickle import loads as read",
        "import importlib.util",
        "from importlib import import_module",
        "import subprocess",
        "def f():\n    import tempfile",
        "eval('1')",
        "run = exec",
        "compile('1', '', 'eval')",
        "__import__('os')",
        "import os\nos.popen('ls')",
        "from os import system\nsystem('ls')",
        "import os as o\no.execv('ls', [])",
        "import yaml\nyaml.load(text)",
        "from ruamel.yaml import YAML\nYAML(typ='unsafe')",
        "from ruamel import yaml\nyaml.YAML(typ=['unsafe', 'pure'])",
        "import torch\ntorch.load(path)",
        "import torch as t\nt.load(path, weights_only=False)",
        "from torch import load\nload(path)",
        "import numpy as np\nnp.load(path)",
        "import numpy\nnumpy.load(path, allow_pickle=True)",
    ],
)
def test_what_can_run_code_is_found_under_any_name(text):
    assert list(unsafe(text))


def test_what_runs_nothing_is_no_finding():
    text = "import re, torch, numpy as np\nre.compile('a')\ntorch.compile(model)\ntorch.load(path, weights_only=True)"
    assert not list(unsafe(f"{text}\nnp.load(path, allow_pickle=False)\nmodel.eval()"))


def test_an_audit_fails_for_a_known_hole_and_says_what_it_could_not_look_up(capsys):
    hole = {"id": "CVE-1", "fix_versions": ["2.1"]}
    packages = [
        {"name": "good", "version": "1.0", "vulns": []},
        {"name": "bad", "version": "2.0", "vulns": [hole]},
        {"name": "hidden", "skip_reason": "not found"},
    ]
    assert verdict(json.dumps({"dependencies": packages[:1]}), "") == 0
    assert capsys.readouterr().out == "audit: 1 packages, 0 known vulnerabilities\n"
    assert verdict(json.dumps({"dependencies": packages}), "") == 1
    printed = capsys.readouterr().out
    assert "bad 2.0 has CVE-1; fixed in: 2.1" in printed
    assert "NOT MADE for hidden (not found)" in printed


def test_an_audit_without_a_network_is_named_and_one_that_breaks_fails(capsys):
    assert verdict("", "Traceback\nrequests.exceptions.ConnectionError: no route") == 0
    assert "NOT MADE, the database of vulnerabilities cannot be reached" in capsys.readouterr().out
    assert verdict("", "pip_audit: No module named pip_audit") == 1
    assert verdict("", "") == 1


@pytest.mark.parametrize("name", ["ci", "bounds"])
def test_a_workflow_parses_pins_its_actions_and_runs_what_there_is(name):
    workflow = YAML(typ="safe").load(ROOT / ".github" / "workflows" / f"{name}.yml")
    assert workflow["permissions"] == {"contents": "read"}
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step.get("uses", f"a/b@{'0' * 40}")), step
            assert set(re.findall(r"^make ([a-z-]+)", step.get("run", ""), re.MULTILINE)) <= targets


@pytest.mark.parametrize("name", ["digits", "custom"])
def test_the_bounds_that_are_committed_are_those_of_the_config_beside_them(cli, tmp_path, name):
    kept, words = ROOT / "configs" / f"{name}.bounds.json", ["--allow-import", "custom_factories:*"]
    done = cli("rangetest", ROOT / "configs" / f"{name}.yaml", "-q", *words, "-o", tmp_path / name, "--check", kept)
    assert done.code == 0, done.err


def test_every_file_that_the_design_page_names_is_there():
    page = (ROOT / "clrtool" / "DESIGN.md").read_text()
    named = set(re.findall(r"[a-z_]+(?:/[a-z_]+)*\.py", page))
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists() and not (ROOT / "clrtool" / name).exists()] == []


def test_the_demo_installs_what_clrtool_runs_on_and_none_of_the_tools_of_its_tests(tmp_path):
    def steps(target):
        command = ["make", "--dry-run", target, f"VENV={tmp_path / 'venv'}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    demo, tests = steps("demo"), steps("test")
    assert "--editable .\n" in demo
    assert "[dev]" not in demo
    assert "--editable .\n" in tests, "one environment, to which the tests add"
    assert "'.[dev]'" in tests
    assert demo.index("--editable .") < demo.index("clrtool rangetest digits")
