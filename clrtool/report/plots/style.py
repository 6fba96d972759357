"""What every picture shares: colours, style, and how it is saved. No pyplot, and so no global state."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context, rcParamsDefault
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath

from clrtool.errors import ConfigError
from clrtool.files import read_text, write_whole
from clrtool.words import printable, shortened


class Palette(NamedTuple):
    """Colours of one scheme: of the page, of text, of what is beside the point, and of curves in their order."""

    paper: str
    ink: str
    grey: str
    blue: str
    orange: str
    green: str
    others: tuple[str, ...]

    @property
    def curves(self) -> tuple[str, ...]:
        return self.blue, self.orange, self.green, *self.others


# Okabe and Ito's colours, which people with any colour vision can tell apart; on dark paper the dark ones are lighter.
LIGHT = Palette("#FFFFFF", "#000000", "#666666", "#0072B2", "#D55E00", "#009E73",
                ("#CC79A7", "#56B4E9", "#E69F00", "#000000", "#F0E442"))  # fmt: skip
DARK = Palette("#16191D", "#ECECEC", "#A3A8AE", "#3D9BE0", "#F0762B", "#1FBF8F",
               ("#DD92BC", "#9AD6F7", "#E69F00", "#ECECEC", "#F0E442"))  # fmt: skip
MOST_CURVES = len(LIGHT.curves)
FORMATS = (".png", ".svg", ".pdf")
# More would leave no room for the curves.
LONGEST_TITLE = 48
# Part of the width that a line may take.
ACROSS = 0.95
# Words need this contrast with their paper (WCAG 2.2, 1.4.3).
READABLE = 4.5
# By its first line a file is known as one that may be replaced.
ALT_HEADER = "# Alternative text of a picture, written by clrtool.\n"
STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "clrtool",
    "pdf.fonttype": 42,
}
_PAPER = ("figure.facecolor", "axes.facecolor")
_INK = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")


# Which colours are in force: those of matplotlib, or light ones on dark paper.
_COLORS: ContextVar[Mapping[str, str]] = ContextVar("_COLORS", default=MappingProxyType({}))
# The backend is no matter of style, and setting it would start it.
_DEFAULTS: Mapping[str, Any] = {name: value for name, value in rcParamsDefault.items() if name != "backend"}


@contextmanager
def styled() -> Iterator[None]:
    """Where figures are drawn and saved: in matplotlib's own defaults but for ours, whatever else was set."""
    settings: Any = {**_DEFAULTS, **STYLE, **_COLORS.get()}  # whose names matplotlib has as a type of its own
    with rc_context(settings):
        yield


@contextmanager
def dark() -> Iterator[None]:
    """Where figures are drawn and saved in light colours on dark paper."""
    colors = {**dict.fromkeys(_PAPER, DARK.paper), **dict.fromkeys(_INK, DARK.ink), "grid.color": DARK.grey}
    token = _COLORS.set(colors)
    try:
        yield
    finally:
        _COLORS.reset(token)


def palette() -> Palette:
    """The colours in force."""
    return DARK if _COLORS.get() else LIGHT


def readable(name: str) -> str:
    """The colour, moved towards that of text until words in it can be read."""
    colors = palette()
    color, ink = np.array(to_rgb(name)), np.array(to_rgb(colors.ink))
    mixed = (to_hex(tuple(color + share * (ink - color))) for share in np.linspace(0, 1, 21))
    return next(each for each in mixed if contrast(each, colors.paper) >= READABLE)


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, 1 to 21, by WCAG 2.2.

    >>> round(contrast("#000000", "#FFFFFF"), 3)
    21.0
    """
    low, high = sorted(map(_luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(color: str) -> float:
    parts = np.array(to_rgb(color))
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, SVG or PDF by the ending of ``path``, and beside it what it shows in words.

    The same figure gives the same bytes.

    Raises:
        ConfigError: the ending is another, or the place of the words is taken by a file of somebody else.
    """
    ending, words = path.suffix.lower(), path.with_suffix(".alt.txt")
    if ending not in FORMATS:
        raise ConfigError(f"{path}: a picture ends in {', '.join(FORMATS)}")
    if words.exists() and not _is_ours(words):
        raise ConfigError(f"{words}: clrtool did not write it, and the words of {path.name} belong there: move it away")
    write_whole(words, f"{ALT_HEADER}{alt_of(figure)}\n")
    write_whole(path, drawn(figure, ending))


def _is_ours(words: Path) -> bool:
    try:
        return read_text(words).startswith(ALT_HEADER)
    except (OSError, UnicodeDecodeError):
        return False


def alt_of(figure: Figure) -> str:
    """What a figure shows in words, its label."""
    return printable(str(figure.get_label()))


def title_of(figure: Figure) -> str:
    """The title of a figure, without the marks by which matplotlib takes it as it is."""
    return printable(figure.get_suptitle()).replace(r"\$", "$").strip()


def drawn(figure: Figure, ending: str) -> bytes:
    """The bytes of a figure as ``.png``, ``.svg`` or ``.pdf``, its title and what it shows in words among them."""
    title, alt = title_of(figure), alt_of(figure)
    metadata: dict[str, dict[str, str | None]] = {
        ".png": {"Software": None, "Title": title, "Description": alt},
        ".svg": {"Date": None, "Title": title, "Description": alt},
        ".pdf": {"CreationDate": None, "Title": title, "Subject": alt},
    }
    content = io.BytesIO()
    with styled(), _any_letter():
        figure.savefig(content, format=ending[1:], dpi=150, metadata=metadata[ending])
    return content.getvalue()


def add_title(figure: Figure, words: str) -> None:
    """A title in one line, smaller where it is long."""
    figure.suptitle(words, fontsize=fitting(figure, words, 12))


def fitting(figure: Figure, words: str, size: float) -> float:
    """The font size, ``size`` at most, at which a line fits into the width of a figure."""
    with _any_letter():
        outline = TextPath((0, 0), words, size=size)
    width = Outline(outline.vertices).get_extents().width  # of its corners: the exact one takes a fifth of a picture
    return min(size, size * ACROSS * 72 * figure.get_figwidth() / width)


@contextmanager
def _any_letter() -> Iterator[None]:
    """A letter that the font lacks is drawn as a box, and nothing is said of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from")
        yield


def plain(text: str) -> str:
    """A text that matplotlib shows as it is: ``$`` would begin a formula, and ``_`` leave a line out of the legend."""
    text = shortened(printable(text), LONGEST_TITLE).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
