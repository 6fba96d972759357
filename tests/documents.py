"""The README and the guide: their blocks, how their commands are run, and how what is shown is held against the output.

``python -m tests.documents`` runs all of them and writes the outputs of today into the pages: `make docs`.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import tempfile
from pathlib import Path

from clrtool.cli.guide import FOLDER, TOPICS
from clrtool.cli.main import main

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *(FOLDER / f"{topic}.md" for topic in TOPICS)]
# What the commands need beside what those before them have made.
FILES = {
    "broken.yaml": "model: {name: mlp}\ndata: {name: digits, batchsize: 32}\noptimizer: SGD\nloss: cross_entropy\n"
    "sweep:\n  epochs: 010\n"
}
# What is not run here, by how it begins, and where it is run instead.
ELSEWHERE = {
    "make ": "tests of their own would install everything again; a fresh clone is tried by hand before a release",
    "CIFAR10=": "the same",
    "pip install": "the same",
    "git ": "it is git's",
    "torchrun": "tests/cli/test_ranks.py",
    "tensorboard": "it serves until it is stopped",
}
# The last line of an output of which the first rows alone are shown.
CUT = " ..."


def blocks(kind, *pages):
    """All blocks of a kind of pages, of all of them by default."""
    text = "\n".join(page.read_text() for page in pages or PAGES)
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def snippet(word):
    """The one block of Python that holds a word."""
    found = [block for block in blocks("python") if word in block]
    assert len(found) == 1, f"{len(found)} blocks hold {word}"
    return found[0]


def commands(page):
    """Every command of a page in its order, with what is shown of its output; None of a block without outputs."""
    for kind, block in re.findall(r"^```(sh|console)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        whole = block.replace("\\\n", "")
        if kind == "sh":
            yield from ((line, None) for line in whole.splitlines() if line and not line.startswith("#"))
            continue
        for part in re.split(r"^\$ ", whole, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def is_run(command):
    return not command.startswith(tuple(ELSEWHERE))


# What is said of a package that some machines have and others lack.
NOT_HERE = re.compile(r"^note: read back, but not run in .*\n", re.MULTILINE)


def run(command):
    """A command in this process and the current folder: exit code, and what it prints, on stderr if nothing else."""
    words = shlex.split(command, comments=True)
    assert words[0] == "clrtool", f"{command}: say in ELSEWHERE where it is run"
    out, err, code = io.StringIO(), io.StringIO(), 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(words[1:])
    except SystemExit as stop:
        code = stop.code or 0
    return code, out.getvalue() or NOT_HERE.sub("", err.getvalue())


def cut(output, shown):
    """As many rows of an output as are shown of it, where the rest is left out."""
    lines = shown.rstrip("\n").splitlines()
    if not lines or lines[-1] != CUT:
        return output
    row = re.compile(r"^ \S")
    left, kept = sum(bool(row.match(line)) for line in lines[:-1]), []
    for line in output.splitlines():
        left -= bool(row.match(line))
        if left < 0:
            break
        kept.append(line)
    return "\n".join([*kept, CUT, ""])


def prepare(folder):
    """Write what the commands need: of the README, and each block of Python that begins with the name of its file."""
    named = {match[1]: block for block in blocks("python") if (match := re.match(r"# (\w+\.py)\n", block))}
    for name, text in (FILES | named).items():
        (folder / name).write_text(text)


# What is another time at each run, on a machine that does other work beside.
TIMES = re.compile(r"[\d.,]+(?: (?:s|ms|min|MiB|GiB)\b|% of the time\b)")


def _unless_times_alone(output, shown):
    """The output, or what is shown of an earlier one where no more than times and free memory differ."""
    alike = [TIMES.sub("", text).split() for text in (output, shown)]
    return shown if alike[0] == alike[1] else output


def _shown(command, output):
    """A command with its output, as a block shows them."""
    lines = "\n".join(line.rstrip() for line in output.splitlines()).strip("\n")
    return f"$ {command}\n{lines}\n"


def refreshed(page):
    """The text of a page with the outputs of today; in a folder that those before it have left."""

    def again(match):
        parts = re.split(r"^\$ ", match[2], flags=re.MULTILINE)[1:]
        texts = []
        for part in parts:
            command = re.match(r"(?:.*\\\n)*.*\n", part)[0]
            shown = part[len(command) :]
            whole = command.replace("\\\n", "").rstrip("\n")
            output = _unless_times_alone(cut(run(whole)[1], shown), shown) if is_run(whole) else shown
            texts.append(_shown(command.rstrip("\n"), output))
        return f"```console\n{chr(10).join(texts)}```" if match[1] == "console" else _ran(match)

    return re.sub(r"^```(sh|console)\n(.*?)^```", again, page.read_text(), flags=re.DOTALL | re.MULTILINE)


def _ran(match):
    """A block without outputs as it is, once its commands have left their files."""
    for line in match[2].replace("\\\n", "").splitlines():
        if line and not line.startswith("#") and is_run(line):
            code, output = run(line)
            assert code == 0, f"{line}: {output}"
    return match[0]


def refresh():
    """Write the outputs of today into all pages. The README comes first, and each page finds what it has left."""
    with tempfile.TemporaryDirectory() as made:
        first = Path(made) / "README"
        first.mkdir()
        prepare(first)
        for page in PAGES:
            folder = first
            if page != README:
                folder = Path(shutil.copytree(first, Path(made) / page.stem))
            os.chdir(folder)
            text = refreshed(page)
            print(f"{page.relative_to(ROOT)}: {'as it was' if text == page.read_text() else 'written'}")
            page.write_text(text)


if __name__ == "__main__":
    os.environ["NO_COLOR"] = "1"
    refresh()
