"""Words for people: names near a mistyped one, counts, times, and texts that a terminal can show."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from enum import Enum

# Characters of a value, a name or a key that a message repeats; more would push the message off the screen.
SHOWN = 72
# Letters and marks that are printable by their class, and yet show nothing.
_INVISIBLE = frozenset(
    map(chr, (0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, *range(0x180B, 0x1810)))
) | frozenset(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
# What a runner of GitHub Actions obeys: '::' where a line begins, which may be anywhere once a table has wrapped it,
# and '##[' anywhere.
_COMMAND = re.compile(r":(?=:)|#(?=#\[)")
# What means itself between the quotes of a shell, in any of them.
_PLAIN = re.compile(r"[\w ./=,+@%-]", re.ASCII)


class Sentence(Enum):
    """A closed set of things to say: the value is the sentence shown to people, ``word`` what files hold."""

    @property
    def word(self) -> str:
        return self.name.lower()


def closest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name nearest to ``name``, capitals aside, or None if none is near.

    >>> closest("sgd", ["Adam", "SGD"])
    'SGD'
    """
    import difflib  # noqa: PLC0415 (2 ms of every start, for an error)

    if len(name) > SHOWN:
        return None  # no slip of the pen, and comparing would take as long as the name is
    folded = {candidate.lower(): candidate for candidate in sorted(valid, reverse=True)}
    found = difflib.get_close_matches(name.lower(), folded, n=1)
    return folded[found[0]] if found else None


def nearest(name: str, valid: Iterable[str], show: int = 20) -> str:
    """The end of a message about an unknown name: the nearest valid one, then the list of them.

    >>> nearest("end_rl", ["start_lr", "end_lr"])
    "did you mean 'end_lr'? Valid: end_lr, start_lr"
    """
    names = sorted(valid)
    found = closest(name, names)
    hint = f"did you mean {found!r}? " if found else ""
    more = f" and {len(names) - show} more" if len(names) > show else ""
    return f"{hint}Valid: {', '.join(names[:show]) or 'none'}{more}"


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(0.0021), duration(3.21), duration(200), duration(8000)
    ('2.1 ms', '3.21 s', '3.33 min', '2.22 h')
    """
    size, unit = next((each for each in ((3600, "h"), (60, "min"), (1, "s")) if seconds >= each[0]), (1e-3, "ms"))
    return f"{seconds / size:.3g} {unit}"


def count(number: int, noun: str) -> str:
    """A number with its noun.

    >>> count(1, "seed"), count(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


def is_newer(version: object, newest: int) -> bool:
    """Whether what a file gives as the version of its format is one of a newer clrtool.

    >>> is_newer(3, 2), is_newer(2, 2), is_newer("3", 2)
    (True, False, False)
    """
    return type(version) is int and version > newest


# What an option of the command line or a key of a config is called in Python, where all stand in one level.
_IN_PYTHON = (
    (re.compile(r": optimizer=\w+"), ""),
    (re.compile(r"--([a-z]+) (\d+)"), r"\1=\2"),
    (re.compile(r"--([a-z]+)"), r"\1="),
    (re.compile(r"\bsweep\.epochs\b"), "sweep_epochs"),
    (re.compile(r"\b(?:sweep|plan)\.iterations\b"), "steps"),
    (re.compile(r"\b(?:sweep|plan|training)\.(\w+)=([a-z_]\w*)"), r"\1='\2'"),
    (re.compile(r"\b(?:sweep|plan|training)\.(\w+)"), r"\1"),
)


def in_python(text: str) -> str:
    """A text of the command line in the words of Python.

    >>> in_python("run with --seeds 3, or raise sweep.epochs, or let sweep.method=race choose")
    "run with seeds=3, or raise sweep_epochs, or let method='race' choose"
    """
    for pattern, words in _IN_PYTHON:
        text = pattern.sub(words, text)
    return text


def shortened(text: str, most: int = SHOWN) -> str:
    """The text, its end left out if it is longer than ``most`` characters.

    >>> shortened("abcdefgh", 6)
    'abc...'
    """
    return text if len(text) <= most else text[: most - 3] + "..."


def shown(value: object) -> str:
    """A value as a message repeats it: as Python writes it, and not longer than a line.

    >>> shown("a"), len(shown("a" * 100_000))
    ("'a'", 72)
    """
    return shortened(repr(value))


def printable(text: str) -> str:
    r"""The text so that a terminal or a CI log only shows it: no name can move a cursor, hide itself or give a command.

    Whatever is not visible is written out: controls but a line break, those of direction, what has no width, halves
    of characters. What a runner of GitHub Actions would take for a command is broken by a space.

    >>> printable("a\x1b[2Jb\u202ec\u200bd")
    'a\\x1b[2Jb\\u202ec\\u200bd'
    >>> printable("\n ::error::x ##[group]")
    '\n : :error: :x # #[group]'
    """
    visible = (letter if _is_visible(letter) else ascii(letter)[1:-1] for letter in text)
    return _COMMAND.sub(r"\g<0> ", "".join(visible))


def shell_command(*words: object) -> str:
    """A command for a person to paste, which a shell reads as these words, whatever names and paths hold.

    >>> print(shell_command("clrtool", "plan", "my runs/it's"))
    clrtool plan 'my runs/it'"'"'s'
    """
    return " ".join(_shell_word(str(word)) for word in words)


def argument(path: object) -> str:
    """A path as a command takes it that would take a dash at its beginning for one of an option.

    >>> argument("-x.yaml"), argument("runs/x")
    ('./-x.yaml', 'runs/x')
    """
    return f"./{path}" if str(path).startswith("-") else str(path)


def _shell_word(word: str) -> str:
    r"""A word that is printed as it is, quoted; one that :func:`printable` would change, by its bytes.

    >>> _shell_word("a b"), _shell_word("a\x1bb::c")
    ("'a b'", "$'a\\x1bb\\x3a\\x3ac'")
    """
    if printable(word) == word and "\n" not in word:
        return shlex.quote(word)
    kept = (
        letter if _PLAIN.fullmatch(letter) else "".join(f"\\x{byte:02x}" for byte in os.fsencode(letter))
        for letter in word
    )
    return f"$'{''.join(kept)}'"


def _is_visible(letter: str) -> bool:
    return (letter.isprintable() and letter not in _INVISIBLE) or letter == "\n"
