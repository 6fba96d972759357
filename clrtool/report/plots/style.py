"""What every picture shares: colours, style, and how it is saved. No pyplot, and so no global state."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure

from clrtool.errors import ConfigError
from clrtool.files import write_whole
from clrtool.words import printable, shortened

# Okabe and Ito's colours, which people with any colour vision can tell apart.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
COLORS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#F0E442")
FORMATS = (".png", ".svg", ".pdf")
# More would leave no room for the curves.
LONGEST_TITLE = 48
STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.hashsalt": "clrtool",
    "pdf.fonttype": 42,
}


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, SVG or PDF by the ending of ``path``; the same figure gives the same bytes."""
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise ConfigError(f"{path}: a picture ends in {', '.join(FORMATS)}")
    write_whole(path, drawn(figure, ending))


def drawn(figure: Figure, ending: str) -> bytes:
    """The bytes of a figure as ``.png``, ``.svg`` or ``.pdf``."""
    metadata: dict[str, dict[str, None]] = {
        ".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}
    }  # fmt: skip
    content = io.BytesIO()
    with style.context(STYLE), warnings.catch_warnings():
        # a letter that the font lacks is drawn as a box
        warnings.filterwarnings("ignore", r"Glyph .* missing from")
        figure.savefig(content, format=ending[1:], dpi=150, metadata=metadata[ending])
    return content.getvalue()


def plain(text: str) -> str:
    """A text that matplotlib shows as it is: ``$`` would begin a formula, and ``_`` leave a line out of the legend."""
    text = shortened(printable(text), LONGEST_TITLE).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
