"""Words for people: names near a mistyped one, counts, and texts that a terminal can show."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum


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
    return f"{hint}Valid: {', '.join(names[:show])}{more}"


def count(number: int, noun: str) -> str:
    """A number with its noun.

    >>> count(1, "seed"), count(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


def printable(text: str) -> str:
    r"""The text with every control character but a line break written out: no name can move a cursor or recolour.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)
