"""Help: on one screen, in groups, examples first, and every text begins with a word that says what the thing is or does."""

import re
import subprocess
import sys

import pytest

from clrtool.cli.commands import SUMMARIES
from clrtool.cli.help import Rare, parts
from clrtool.cli.main import app

typer = pytest.importorskip("typer")
GROUP = typer.main.get_command(app)
COMMANDS = {name: GROUP.get_command(typer.Context(GROUP), name) for name in SUMMARIES}
SCREEN = 40


@pytest.fixture
def helped(cli, monkeypatch):
    """What a command says on a terminal of that width."""

    def call(*words, columns=80):
        monkeypatch.setenv("COLUMNS", str(columns))
        told = cli(*words)
        assert (told.code, told.err) == (0, "")
        return told.out

    return call


def described():
    """Every option and argument that is shown, with its command."""
    for name, command in COMMANDS.items():
        yield from ((name, each) for each in command.params if not getattr(each, "hidden", False))


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_on_one_screen_and_leaves_no_space_at_the_end_of_a_line(helped, command):
    for columns in (80, 120):
        lines = helped(*command.split(), "--help", columns=columns).splitlines()
        assert len(lines) <= SCREEN
        assert max(map(len, lines)) < columns
        assert not [line for line in lines if line != line.rstrip()]
        assert not re.search(r"<\w+|\{\w|list\[| range>|\[required", "\n".join(lines)), "words of a type checker"


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_come_first_and_every_option_is_in_a_named_group(helped, command):
    text = helped(command, "--help-all")
    heads = re.findall(r"^([A-Z][\w ]+):$", text, re.MULTILINE)
    assert heads[0] == "Examples"
    assert set(heads) - {"Examples"} == {
        str(each.rich_help_panel or ("Input" if each.param_type_name == "argument" else "Run"))
        for name, each in described()
        if name == command
    }
    for name, each in described():
        if name == command and each.param_type_name == "option":
            assert re.search(rf"^  .*{re.escape(each.opts[-1])}\b", text, re.MULTILINE), each.opts


@pytest.mark.parametrize("command", COMMANDS)
def test_what_help_leaves_out_is_counted_and_stands_in_help_all(helped, command):
    short, whole = helped(command, "--help"), helped(command, "--help-all")
    left_out = [each for name, each in described() if name == command and isinstance(each.rich_help_panel, Rare)]
    for each in left_out:
        assert f"  {each.opts[0]}" not in short
        assert f"  {each.opts[0]}" in whole
    assert (f"shows {len(left_out)} more options" in short) is bool(left_out)
    assert "--help-all shows" not in whole


@pytest.mark.parametrize(
    ("command", "param"), [pytest.param(*each, id=f"{each[0]} {each[1].name}") for each in described()]
)
def test_a_text_of_help_names_the_thing_or_what_it_does(command, param):
    first = param.help.split()[0]
    assert first[0].isupper() or first in ("auto", "table,", "base_lr"), param.help
    assert first not in {
        "Of",
        "With",
        "By",
        "For",
        "What",
        "Where",
        "Whether",
        "That",
        "Its",
        "And",
        "No",
        "Without",
        "Between",
    }
    assert param.help.rstrip("]").endswith((".", "...")) or "[default" in param.help
    assert getattr(param, "is_flag", False) or param.metavar, "a value needs a name"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_of_help_are_commands_with_real_options(command):
    for line in parts(COMMANDS[command].help)[1]:
        words = line.split()
        assert words[:2] == ["clrtool", command]
        known = {option for each in COMMANDS[command].params for option in getattr(each, "opts", ())}
        assert {word for word in words if word.startswith("-")} <= known, line


@pytest.mark.parametrize(
    ("words", "called"),
    [([], set()), (["--help"], set()), (["rangetest", "--help"], {"rangetest"}), (["schema", "-h"], {"schema"})],
)
def test_help_imports_the_command_that_it_is_about_and_no_library_but_typer(words, called):
    code = f"import sys; from clrtool.cli.main import main\ntry: main({words})\nexcept SystemExit: pass\n"
    code += "print(*sys.modules, file=sys.stderr)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.split()
    assert {name for name in SUMMARIES if f"clrtool.cli.{name}" in loaded} == called
    assert not {"numpy", "torch", "rich", "pydantic", "matplotlib"} & set(loaded)


@pytest.mark.parametrize("command", SUMMARIES)
def test_the_line_of_a_command_is_the_first_sentence_of_its_own_help(command):
    assert parts(COMMANDS[command].help)[0].partition(". ")[0].rstrip(".") + "." == SUMMARIES[command]


def test_a_command_that_is_misspelled_names_the_nearest(cli):
    told = cli("rangtest", "digits")
    assert (told.code, told.out) == (2, "")
    assert "Did you mean 'rangetest'?" in told.err


def test_clrtool_alone_says_what_to_do_next_in_a_few_lines(cli):
    told = cli()
    assert (told.code, told.err) == (0, "")
    assert len(told.out.splitlines()) <= 10
    for command in ("clrtool rangetest digits", "clrtool init", "clrtool --help"):
        assert command in told.out
    assert "Usage" not in told.out
