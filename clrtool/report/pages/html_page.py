"""A page in one file: no network, no script, no font from elsewhere; whatever came from a user is escaped here."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterable, Sequence
from string import Template

from clrtool import __version__
from clrtool.report.plots import Figure
from clrtool.report.plots.style import DARK, LIGHT, Palette, alt_of, dark, drawn, title_of
from clrtool.words import printable

# The page may apply its own style and show the pictures that it holds, and nothing else.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="clrtool">
<title>$title</title>
<style>
:root { color-scheme: light dark; $light }
@media screen and (prefers-color-scheme: dark) { :root { $dark } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 60rem; overflow-wrap: break-word;
  font: 1rem/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 0.5rem; }
.decision { font-size: 1.15rem; padding: 0.75rem 1rem; background: var(--shade);
  border-left: 0.3rem solid var(--green); }
.wide { overflow-x: auto; margin: 0.75rem 0; }
.wide:focus-visible, summary:focus-visible { outline: 0.2rem solid var(--blue); outline-offset: 0.1rem; }
figure { margin: 1rem 0; }
img { display: block; width: 100%; min-width: 36rem; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--grey); padding: 0.25rem 0; }
th, td { text-align: left; vertical-align: top; padding: 0.3rem 1.2rem 0.3rem 0; border-bottom: 1px solid var(--rule); }
thead th { color: var(--grey); font-weight: normal; }
th { white-space: nowrap; font-weight: 600; }
td.hash { overflow-wrap: anywhere; font-family: ui-monospace, monospace; font-size: 0.85em; }
thead ~ tbody td { white-space: nowrap; }
thead ~ tbody td.prose { white-space: normal; min-width: 18rem; }
pre { margin: 0; padding: 0.75rem 1rem; width: max-content; min-width: 100%; background: var(--shade);
  font: 0.875rem/1.5 ui-monospace, monospace; }
summary { cursor: pointer; }
footer { margin-top: 3rem; color: var(--grey); font-size: 0.875rem; }
@media (max-width: 40rem) { /* what is long goes below the rest of its row */
  tr:has(.prose) { display: grid; grid-template-columns: 2fr 2fr 3fr; border-bottom: 1px solid var(--rule); }
  tr:has(.prose) > * { border: 0; }
  thead ~ tbody td.prose, th.prose { grid-column: 1 / -1; min-width: 0; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  .wide { overflow: visible; }
  img { min-width: 0; }
  pre { width: auto; white-space: pre-wrap; }
  figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
}
</style>
</head>
<body>
<main>
<h1>$title</h1>
$body
</main>
<footer>Written by clrtool $version. This page loads nothing.</footer>
</body>
</html>
""")


def page(title: str, *parts: str) -> str:
    """The whole page from its title, a text, and its parts, HTML."""
    return PAGE.substitute(title=text(title), body="\n".join(parts), policy=POLICY, version=text(__version__),
                           light=_variables(LIGHT), dark=_variables(DARK))  # fmt: skip


def _variables(colors: Palette) -> str:
    """A scheme as CSS; shades are the colour of the text at a few per cent."""
    plain = {"paper": colors.paper, "ink": colors.ink, "grey": colors.grey, "green": colors.green, "blue": colors.blue}
    shades = {"shade": f"{colors.ink}0D", "rule": f"{colors.ink}26"}
    return " ".join(f"--{name}: {color};" for name, color in (plain | shades).items())


def text(words: object) -> str:
    """Words as they are read: no mark-up, and nothing that does not show."""
    return html.escape(printable(str(words)))


def section(title: str, *parts: str) -> str:
    """A heading and what belongs to it, without parts that are empty."""
    return "\n".join(("<section>", f"<h2>{text(title)}</h2>", *filter(None, parts), "</section>"))


def paragraph(words: str, kind: str = "") -> str:
    return f"<p{_class(kind)}>{text(words)}</p>"


def bullets(lines: Sequence[str]) -> str:
    """A list; nothing where there is nothing to list."""
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if lines else ""


def table(caption: str, rows: Iterable[Sequence[object]], header: Sequence[str] = (), last: str = "") -> str:
    """A table whose rows begin with what they are about; it scrolls by itself where it is too wide.

    Args:
        last: the kind of its last column: ``prose`` or ``hash``, which have more than one line.
    """
    head = f"<thead><tr>{_names(header, last)}</tr></thead>\n" if header else ""
    body = "\n".join(f"<tr>{_cells(row, last)}</tr>" for row in rows)
    whole = f"<table>\n<caption>{text(caption)}</caption>\n{head}<tbody>\n{body}\n</tbody>\n</table>"
    return _wide(caption, whole)


def _names(header: Sequence[str], last: str) -> str:
    *others, end = (text(each) for each in header)
    return "".join([f'<th scope="col">{each}</th>' for each in others]) + f'<th scope="col"{_class(last)}>{end}</th>'


def _cells(row: Sequence[object], last: str) -> str:
    first, *others, end = map(text, row)
    between = "".join(f"<td>{each}</td>" for each in others)
    return f'<th scope="row">{first}</th>{between}<td{_class(last)}>{end}</td>'


def code(label: str, lines: str) -> str:
    """Text that is to be typed or copied."""
    return _wide(label, f"<pre><code>{text(lines)}</code></pre>")


def details(summary: str, inside: str) -> str:
    """What is folded away; the keyboard opens it too."""
    return f"<details>\n<summary>{text(summary)}</summary>\n{inside}\n</details>"


def picture(draw: Callable[[], Figure]) -> str:
    """What ``draw`` draws, in both schemes; what is printed is the light one."""
    with dark():
        night = _data(draw())
    figure = draw()
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    image = f'<img src="{_data(figure)}" width="{width}" height="{height}" alt="{text(alt_of(figure))}">'
    source = f'<source media="screen and (prefers-color-scheme: dark)" srcset="{night}">'
    return f"<figure>{_wide(title_of(figure), f'<picture>{source}{image}</picture>')}</figure>"


def _wide(label: str, inside: str) -> str:
    """A part that scrolls sideways where it does not fit, by the keyboard too."""
    return f'<div class="wide" role="region" aria-label="{text(label)}" tabindex="0">\n{inside}\n</div>'


def _data(figure: Figure) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(drawn(figure, '.svg')).decode()}"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
