"""The guide: its topics, how it is read in a terminal and a pipe, and that troubleshooting leaves nothing out."""

import ast
import importlib
import inspect
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

import clrtool
from clrtool import errors
from clrtool.cli.guide import FOLDER, PROMISE, TOPICS, page, promise, topics
from clrtool.cli.main import SIGNALLED
from clrtool.cli.run.signals import STOPPING
from clrtool.core.planning.policies import POLICIES
from tests import gallery
from tests.documents import PAGES

PACKAGE = Path(clrtool.__file__).parent
TROUBLE = page("troubleshooting")


def test_every_page_is_a_topic_and_every_topic_a_page():
    assert {path.stem for path in FOLDER.glob("*.md")} == set(TOPICS)


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_begins_with_what_its_reader_can_do_after_it(topic):
    heading, first, *_ = page(topic).split("\n\n")
    assert re.fullmatch(r"# \S.*", heading)
    assert first.startswith(PROMISE)
    assert len(promise(page(topic))) + max(map(len, TOPICS)) + 2 <= 80, "the list of topics has 80 columns"


# Words that read as a translation, or that leave out the noun that they speak of.
STUMBLES = re.compile(
    r"\banew\b|\bso many\b|\bgoes with\b|\bput down to\b|\bis sure to\b|\bsure to within\b|\bholds? to a tenth\b|"
    r"\bthan there are now\b|\bwhich reads\b|, that of\b|\bof its own kind\b|\bsays no more than\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.stem)
def test_the_prose_of_a_page_does_not_stumble(file):
    prose = re.sub(r"^```.*?^```|^>.*?$", "", file.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert STUMBLES.findall(prose) == []


def test_without_a_topic_they_are_listed_each_with_a_line(cli):
    lines = cli("guide").out.splitlines()
    assert [line.split()[0] for line in lines[: len(TOPICS)]] == list(TOPICS)
    assert all(len(line.split()) > 4 for line in lines[: len(TOPICS)])


def test_a_pipe_gets_the_markdown_as_it_is(process):
    for topic in ("resume", "Resume", "resume.md"):
        assert process("guide", topic).stdout == page("resume")


def test_a_terminal_gets_a_rendered_page_whose_links_are_commands():
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"} | {"NO_COLOR": "1"}
    command = [sys.executable, "-m", "clrtool", "guide", "how-it-works"]
    child = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # as Linux tells the end of a terminal
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert child.wait() == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())
    assert "clrtool guide troubleshooting" in " ".join(text.split())
    assert "**" not in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("typed", "meant"), [("resum", "resume"), ("trouble-shooting", "troubleshooting"), ("CI2", "ci")]
)
def test_an_unknown_topic_names_the_nearest(cli, typed, meant):
    done = cli("guide", typed)
    assert done.code == 2
    assert f"did you mean '{meant}'?" in done.err
    assert "Traceback" not in done.err


def test_a_shell_completes_topics():
    assert topics("re") == ["reading-the-picture", "resume"]
    assert topics("nothing") == []


def test_the_guide_imports_nothing_slow():
    code = (
        "import sys\nfrom clrtool.cli.main import main\ntry: main(['guide', 'ci'])\nexcept SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "matplotlib", "numpy"} & set(done.stderr.split())


@pytest.mark.parametrize(
    ("sentence", "entry"), list(gallery.entries(TROUBLE)), ids=lambda each: getattr(each, "name", "")
)
def test_troubleshooting_has_an_entry_for_every_sentence_that_a_result_may_say(sentence, entry):
    assert entry is not None, f"no entry for {sentence}"
    beginning = gallery.beginning(sentence)
    assert entry.startswith(beginning), "make docs"
    assert len(entry.removeprefix(beginning).split()) >= 8, "it has to say what to do"


@pytest.mark.parametrize("case", [*gallery.CURVES, *gallery.RACES], ids=lambda case: case.name)
def test_the_picture_of_an_entry_is_of_measurements_that_lead_to_it(case):
    bounds = gallery.bounds_of(case)
    assert case in (bounds.verdict, *bounds.advice)


def exit_codes():
    """Every code with which a command may end: of errors, of commands that raise one by name, and of signals."""
    yield from errors._CODES.values()
    yield from (SIGNALLED + each for each in STOPPING)
    for file in (PACKAGE / "cli").rglob("*.py"):
        text = file.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "typer.Exit":
                names = [each.id for each in ast.walk(node) if isinstance(each, ast.Name) and each.id.isupper()]
                module = importlib.import_module(
                    "clrtool." + file.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
                )
                yield from (getattr(module, name) for name in names)


def test_troubleshooting_has_a_row_for_every_exit_code():
    table = TROUBLE.partition("\n## Exit codes\n")[2].partition("\n## ")[0]
    told = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE) for code in row.split(", ")}
    assert told == {0, *map(int, exit_codes())}
    assert {1, 3, 4, 70, 75} <= told


def test_troubleshooting_has_a_row_for_every_finding_of_lint():
    rules = {
        node.args[0].value
        for file in (PACKAGE / "core" / "planning").glob("lint*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Finding" and isinstance(node.args[0], ast.Constant)
    }
    table = TROUBLE.partition("\n## Findings of `--lint`\n")[2].partition("\n## ")[0]
    assert rules == set(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE))


def test_the_page_of_policies_has_them_all():
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", page("plans-and-policies"), re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"\w+", row)} == set(POLICIES)


def test_the_table_of_other_finders_is_that_of_the_benchmark():
    """The README's numbers of other finders stand in REGRET.md, in the row of the same finder."""
    root = PACKAGE.parent
    rows = re.findall(
        r"^\| ([^|]+) \| ([\d.]+ \([\d.]+\)) \| ([\d.]+ \([\d.]+\)) \|", (root / "README.md").read_text(), re.M
    )
    assert len(rows) >= 4
    measured = (root / "tests" / "benchmarks" / "REGRET.md").read_text()
    ten, eight = measured.partition("\nTen jobs of this project, without")[2].partition(
        "\nEight jobs beside the project"
    )[::2]
    for finder, first, second in rows:
        assert f"| {finder} | {first} |" in ten
        assert f"| {finder} | {second} |" in eight


def test_the_losses_that_the_guide_tells_are_those_of_the_benchmark():
    """Job by job, and how many of its trainings are clear: three schedules of every test that REGRET.md calls so."""
    measured = (PACKAGE.parent / "tests" / "benchmarks" / "REGRET.md").read_text()
    jobs = measured.partition("### A cliff just above")[0]
    rows = re.findall(r"^\| [\w-]+ \| ([\d.]+ / [\d.]+ / [\d.]+) \| [^|]+ \| ([a-z, ]+) \|", jobs, re.M)
    told = re.findall(r"^\| [^|]+ \| ([\d.]+ / [\d.]+ / [\d.]+) \|$", page("how-it-works"), re.M)
    assert sorted(told) == sorted(losses for losses, _ in rows)
    verdicts = [word for _, words in rows for word in words.split(", ")]
    clear, weak = (3 * verdicts.count(word) for word in ("clear", "weak"))
    assert f"All {clear} trainings under the verdict `clear`" in page("how-it-works")
    assert f"| clear | {clear} |" in jobs
    assert f"| weak | {weak} |" in jobs


def test_every_option_of_a_range_test_in_python_is_explained_where_help_shows_it():
    told = clrtool.RangeTestOptions.__doc__.partition("Args:")[2]
    names = {name for line in re.findall(r"^ {8}(\w[\w, ]*):", told, re.MULTILINE) for name in line.split(", ")}
    assert names == set(clrtool.RangeTestOptions.__annotations__)
    own = set(inspect.signature(clrtool.range_test).parameters)
    told = clrtool.range_test.__doc__.partition("Args:")[2].partition("Raises:")[0]
    assert {name for line in re.findall(r"^ {8}(\w[\w, ]*):", told, re.MULTILINE) for name in line.split(", ")} == own
