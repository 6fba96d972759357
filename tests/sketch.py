"""Pictures that are not drawn: to lay one out takes longer than the training of a small run, and few tests look at any.

What stands in its place is a picture too, with the title and the words of the figure, and the same bytes for the same
ones. All around it is as it is: the figure is made, its bytes are written, and what is checked before is checked.
"""

import zlib
from xml.sax.saxutils import escape

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo


def sketched(figure, content, *, format, metadata, dpi):  # noqa: A002 (the names of matplotlib)
    """Write a picture of the figure's words in place of the figure."""
    words = {name: text for name, text in metadata.items() if text is not None}
    {"png": _as_png, "svg": _as_svg, "pdf": _as_pdf}[format](content, words, dpi, len(figure.axes))


def instead_of_drawing(patch=setattr):
    """Have every figure sketched from here on."""
    patch(Figure, "savefig", sketched)


def _as_png(content, words, dpi, parts):
    info = PngInfo()
    for name, text in words.items():
        info.add_itxt(name, text)
    noise = np.random.default_rng(zlib.crc32(repr(words).encode())).integers(0, 256, (dpi, 200 * (1 + parts)), "u1")
    Image.fromarray(noise).save(content, "png", pnginfo=info, dpi=(dpi, dpi))


def _as_svg(content, words, *_):
    parts = "".join(f"<text>{escape(text)}</text>" for text in words.values())
    content.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">{parts}</svg>\n'.encode())


def _as_pdf(content, words, *_):
    content.write(b"%PDF-1.4\n" + "".join(f"% {text!a}\n" for text in words.values()).encode() + b"%%EOF\n")
