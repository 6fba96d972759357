"""Puts what ``make gpu`` has measured into RESULTS.md, under a heading of its own: ``make gpu-report``."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.gpu.results import Line, read
from tests.gpu.wheels import ROOT

RESULTS = ROOT / "tests" / "benchmarks" / "RESULTS.md"
HEADING = "## On a GPU\n"
RATIOS = {
    "sweep": (
        "The time of an iteration as a multiple of that of a CUDA graph of the same step, captured by hand, which ran "
        "beside it. All compute in one precision."
    ),
    "whole test": (
        "A whole test, with everything that is made for it: for clrtool capture, check and evaluations as well, for the "
        "graph its capture."
    ),
}
# What is shown as it was written, and what it means.
TABLES = {
    "range test": "Whole range tests by the command line; seconds are wall-clock time, with the start of Python.",
    "acceptance": "Healthy problems that the check of the captured step accepts.",
    "curves": "Held-out losses of captured and plain sweeps of the same 5 seeds: the largest difference of the means.",
    "seeds": "A step of several seeds: as streams of one graph, and batched by hand into wider kernels.",
    "memory": "What is reserved after each of several captures, all dropped.",
    "same bytes": "`--deterministic` twice, and interrupted and resumed.",
}
# Hashes are told by whether they are the same; what runs as it should has no reason or fault.
LEFT_OUT = {"step", "what", "first", "second", "resumed"}


class NoReportError(Exception):
    """Why there is nothing to put there, and what to do."""


def part(lines: Sequence[Line]) -> str:
    """The part of the page, from its heading on.

    Raises:
        NoReportError: nothing of it was measured on a GPU.
    """
    begin = next((line for line in lines if line["what"] == "begin"), None)
    if begin is None or begin["device"] != "cuda":
        raise NoReportError(
            "it holds nothing that was measured on a GPU: run make gpu, without --cpu, where there is one"
        )
    blocks = [HEADING.strip(), f"Written by `make gpu-report` from what `make gpu` measured. {_machine(begin, lines)}"]
    blocks += [block for what, meaning in RATIOS.items() for block in _ratios(_of(lines, what), meaning)]
    blocks += _tests(_of(lines, "test"))
    blocks += [block for what, meaning in TABLES.items() for block in _table(_of(lines, what), meaning)]
    blocks += _unfinished(_of(lines, "end"))
    return "\n\n".join(blocks) + "\n"


def _of(lines: Iterable[Line], what: str) -> list[Line]:
    return [line for line in lines if line["what"] == what]


def _machine(begin: Line, lines: Sequence[Line]) -> str:
    card = next(iter(_of(lines, "card")), {"card": "card not told", "driver": "not told", "cuda": "not told"})
    versions = next((line["versions"] for line in _of(lines, "doctor")), {})
    told = [f"{name} {versions[name]}" for name in ("python", "torch", "torchvision", "numpy") if name in versions]
    absent = f" Not installed there: {', '.join(card['peers_absent'])}." if card.get("peers_absent") else ""
    about = [begin["date"], card["card"], f"driver {card['driver']}", f"CUDA {card['cuda']}", *told]
    return f"{', '.join(about)}.{absent}"


def _ratios(lines: Sequence[Line], meaning: str) -> list[str]:
    """A row a piece of work, a column a way."""
    if not lines:
        return []
    ways = list(dict.fromkeys(line["way"] for line in lines))
    rows: dict[str, dict[str, Line]] = {}
    for line in lines:
        work = f"{line['model']}, batch {line['batch']}, {line['precision']}, {line['iterations']} iterations"
        rows.setdefault(work, {})[line["way"]] = line
    table = []
    for work, found in rows.items():
        base = [line["base_us"] for line in found.values() if "base_us" in line]
        cells = [_ratio(found.get(way)) for way in ways]
        table.append([work, f"{min(base):,.1f} to {max(base):,.1f}" if base else "", *cells])
    return [meaning, _markdown(["work", "the graph, us an iteration", *ways], table)]


def _ratio(line: Line | None) -> str:
    if line is None:
        return ""
    return f"{line['ratio']:.2f}" if "ratio" in line else f"failed: {line['fault']}"


def _tests(lines: Sequence[Line]) -> list[str]:
    """How many tests passed by which engine, and those that did not pass, with why."""
    if not lines:
        return []
    passed = Counter(", ".join(line["engines"]) or "none" for line in lines if line["outcome"] == "passed")
    others = [[line["name"], line["outcome"], line["reason"]] for line in lines if line["outcome"] != "passed"]
    blocks = [
        "Tests that passed, by the engines that trained in them:",
        _markdown(["engines", "tests"], passed.items()),
    ]
    return [*blocks, _markdown(["test", "outcome", "reason"], others)] if others else blocks


def _table(lines: Sequence[Line], meaning: str) -> list[str]:
    """The lines as they were written."""
    columns = list(dict.fromkeys(name for line in lines for name in line if name not in LEFT_OUT))
    return [meaning, _markdown(columns, [[line.get(name, "") for name in columns] for line in lines])] if lines else []


def _unfinished(ends: Sequence[Line]) -> list[str]:
    """The steps that came to no good end: what they should have measured is not above."""
    rows = [
        [line["step"], line["how"], line["said"].strip().rpartition("\n")[2]] for line in ends if line["how"] != "done"
    ]
    return ["Not done:", _markdown(["step", "how it ended", "its last words"], rows)] if rows else []


def _markdown(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_cell(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return " ".join(str(value).replace("|", "\\|").split())


def kept(page: str) -> str:
    """The part of a page that was written here, with its heading; empty where there is none."""
    _, heading, rest = page.partition(f"\n{HEADING}")
    return heading.lstrip("\n") + rest


def main(file: Path) -> int:
    if not file.exists():
        print(f"error: {file} is not there: make gpu writes it", file=sys.stderr)
        return 2
    try:
        new = part(list(read(file)))
    except NoReportError as error:
        print(f"error: {file}: {error}", file=sys.stderr)
        return 2
    page = RESULTS.read_text(encoding="utf-8")
    RESULTS.write_text(page.removesuffix(kept(page)).rstrip("\n") + "\n\n" + new, encoding="utf-8")
    print(new)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "runs" / "gpu.jsonl"))
