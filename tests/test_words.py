"""Words for people: nothing that a name holds does more than be seen."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from clrtool.core.planning.finding import Finding
from clrtool.report.plots.style import LONGEST_TITLE, plain
from clrtool.report.text.tables import lint_table
from clrtool.words import SHOWN, closest, nearest, printable, shortened, shown

HOSTILE = st.text(st.one_of(st.sampled_from("\x1b:#[]$\\_^{}/\n\r\t\u202e\u200b\u2028\ud800 é日"), st.characters()))


@pytest.mark.parametrize(
    "letter",
    [
        *map(chr, range(10)), *map(chr, range(11, 32)), *map(chr, range(0x7F, 0xA1)),  # controls, and a space that is none
        "\xad", "\u061c", "\u200b", "\u200c", "\u200d", "\u200e", "\u200f", "\u2028", "\u2029", "\u202a", "\u202b",
        "\u202c", "\u202d", "\u202e", "\u2060", "\u2066", "\u2067", "\u2068", "\u2069", "\ufeff", "\ufe0f", "\u3164",
        "\u034f", "\u2800", *map(chr, (0xD800, 0xDCFF, 0xDFFF)), "\ufffe", "\U000e0001", "\U000e0100", "\u180e", "\U0010ffff",
    ],
)  # fmt: skip
def test_what_is_not_visible_is_written_out(letter):
    assert printable(f"a{letter}b") == f"a{ascii(letter)[1:-1]}b"


@pytest.mark.parametrize(
    "text", ["plain", "naïve café", "日本語", "data/my-run_2.yaml", "a: b #c [d] $e \\f", "😀", "x\ny", ""]
)
def test_what_is_visible_stays_as_it_is(text):
    assert printable(text) == text


@given(HOSTILE)
def test_a_printed_text_holds_nothing_but_what_is_seen_and_gives_no_command(text):
    once = printable(text)
    assert not {unicodedata.category(letter) for letter in once if letter != "\n"} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert not re.search(r"^\s*::|##\[", once, re.MULTILINE)
    assert printable(once) == once
    assert once.count("\n") == text.count("\n")
    once.encode()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("::error file=a::b", ": :error file=a: :b"),
        (" \t::stop-commands::x", " \\t: :stop-commands: :x"),
        (":::", ": : :"),
        ("##[error]x", "# #[error]x"),
        ("a ###[group]", "a ## #[group]"),
        ("a:b ## c #[d]", "a:b ## c #[d]"),
    ],
)
def test_a_command_of_a_ci_log_is_broken(text, found):
    assert printable(text) == found


@given(HOSTILE, st.integers(4, 60))
def test_no_width_of_a_table_makes_a_line_that_is_a_command(text, width):
    console = Console(width=width, markup=False, highlight=False, color_system="truecolor", force_terminal=True)
    with console.capture() as capture:
        console.print(lint_table([Finding(rule=text, cause=text, fix=text)], text))
    drawn = re.sub(r"\x1b\[[0-9;]*m", "", capture.get())  # the styles of the table itself
    assert "\x1b" not in drawn
    assert not re.search(r"^\s*::|##\[", drawn, re.MULTILINE)


def test_markup_has_no_meaning_in_a_table():
    console = Console(width=100)
    with console.capture() as capture:
        console.print(lint_table([Finding(rule="[red]a[/red]", cause="[link=x]b[/]", fix="[/]")], "[bold]t"))
    for text in ("[red]a[/red]", "[link=x]b[/]", "fix: [/]", "[bold]t"):
        assert text in capture.get()


@given(HOSTILE)
def test_a_title_of_a_picture_is_no_formula_and_is_not_left_out_of_a_legend(text):
    from matplotlib import cbook

    title = plain(text)
    assert not cbook.is_math_text(title)
    assert not title.startswith("_")
    assert len(title) <= 2 * LONGEST_TITLE + 1


@given(st.one_of(st.text(max_size=300), st.integers(), st.lists(st.text(max_size=50), max_size=20)))
def test_a_value_is_shown_as_it_is_or_by_its_beginning(value):
    found = shown(value)
    assert len(found) <= SHOWN
    assert found == repr(value) or (found.endswith("...") and repr(value).startswith(found[:-3]))
    assert shortened(found) == found


def test_a_name_far_too_long_is_near_to_nothing_and_costs_nothing():
    long = "sweep" * 10**6
    assert closest(long, ["sweep"]) is None
    assert nearest(long, ["sweep"]) == "Valid: sweep"
