"""``clrtool guide``: the pages of the guide, in the terminal."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from clrtool.cli.console import Plain
from clrtool.errors import ConfigError
from clrtool.report.text.progress import console
from clrtool.words import nearest

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.markdown import Markdown

# In the order in which they are read; a page is TOPIC.md in the folder of the guide.
TOPICS = (
    "how-it-works",
    "reading-the-picture",
    "any-workload",
    "plans-and-policies",
    "translate-and-lint",
    "compare",
    "beyond-one-number",
    "under-way",
    "ci",
    "many-gpus",
    "gpu",
    "resume",
    "security",
    "cost-and-speed",
    "paper",
    "troubleshooting",
    "changelog",
)
FOLDER = Path(__file__).parent.parent / "guide"
# Columns of a line that is read with ease.
WIDEST = 100
# In place of rich's colours, which are faint on a light terminal.
STYLES = {
    "markdown.code": "bold",
    "markdown.code_block": "none",
    "markdown.table.header": "bold",
    "markdown.table.border": "none",
}
# What a page begins with, below its heading; the list of topics tells it without these words.
PROMISE = "After this page you can "


def topics(incomplete: str) -> list[str]:
    """The topics that begin as was typed, for a shell to complete."""
    return [topic for topic in TOPICS if topic.startswith(incomplete)]


def guide(
    topic: Annotated[
        str | None, typer.Argument(metavar="[TOPIC]", help="Page to read.", autocompletion=topics, show_default=False)
    ] = None,
    plain: Plain = False,
) -> None:
    """Read a page of the guide, or list its topics.

    On a terminal a page is rendered; a pipe gets its Markdown, and so does --plain.

    Examples:
    clrtool guide
    clrtool guide troubleshooting
    clrtool guide ci > ci.md
    """
    if topic is None:
        width = max(map(len, TOPICS))
        for each in TOPICS:
            typer.echo(f"{each:{width}}  {promise(page(each))}")
        typer.echo("\nRead one: clrtool guide TOPIC")
        return
    name = topic.lower().removesuffix(".md")
    if name not in TOPICS:
        raise ConfigError(f"guide: no topic {topic!r}; {nearest(name, TOPICS)}")
    if plain or not sys.stdout.isatty():
        typer.echo(page(name), nl=False)
    else:
        _show(page(name))


def page(topic: str) -> str:
    """The Markdown of a topic."""
    return (FOLDER / f"{topic}.md").read_text(encoding="utf-8")


def promise(text: str) -> str:
    """What a reader of a page can do afterwards, in a line: ``Tell ...``, without the full stop."""
    paragraph = " ".join(text.split("\n\n")[1].split()).removeprefix(PROMISE)
    sentence = paragraph.partition(". ")[0].removesuffix(".")
    return sentence[:1].upper() + sentence[1:]


def _show(text: str) -> None:
    """A page on the terminal, in colours that stand out on a dark one and on a light one."""
    from rich.theme import Theme

    screen = console()
    with screen.use_theme(Theme(STYLES)):
        screen.print(_rendered(text), width=min(screen.width, WIDEST))


def _rendered(text: str) -> Markdown:
    """The page for a terminal, where links to other pages are commands, and pictures are the words beside them."""
    from rich.markdown import CodeBlock, Markdown
    from rich.padding import Padding

    class Plain(CodeBlock):
        """Code as it is: any colour of a highlighter is unreadable on some background."""

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            self.text.rstrip()
            yield Padding(self.text, (0, 0, 0, 2))

    class Page(Markdown):
        elements: ClassVar = {**Markdown.elements, "fence": Plain}

    text = re.sub(r"!\[([^\]]*)\]\([^)]*\)", r"*Picture: \1*", text)
    text = re.sub(r"\[([^\]]*)\]\(([\w-]+)\.md(?:#[\w-]*)?\)", r"\1 (`clrtool guide \2`)", text)
    return Page(text, hyperlinks=False)
