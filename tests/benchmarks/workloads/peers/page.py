"""The tables for REGRET.md and the picture for README.md, of what ``run`` has kept.

    python -m tests.benchmarks.workloads.peers.page KNOWN.json [--oracle ORACLE.json ...] [--picture FILE]

There is a table for the jobs of each oracle, that of this project first; the picture shows all of them together.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from tests.benchmarks.workloads.peers.losses import Row, rows
from tests.benchmarks.workloads.peers.picture import draw
from tests.benchmarks.workloads.score import ORACLE, SCHEDULES


def table(ways: Sequence[Row]) -> list[str]:
    """Markdown, the least loss first."""
    lines = [
        f"| way | {', %: mean (worst job) | '.join(SCHEDULES)}, %: mean (worst job) | iterations | found nothing |",
        "| --- |" + " --- |" * (len(SCHEDULES) + 2),
    ]
    for row in sorted(ways, key=lambda row: mean(row.lost["cosine"])):
        cells = [f"{mean(c):.1f} ({max(c):.1f})" if (c := row.lost.get(name)) else "" for name in SCHEDULES]
        nothing = f"{row.failed} of {row.runs}" if row.failed else ""
        lines.append(f"| {row.way} | {' | '.join(cells)} | {row.iterations:.0f} | {nothing} |")
    return lines


def made(known: dict[str, dict[str, str]]) -> str:
    """When, on what, with which versions, and what was not here."""
    versions = ", ".join(f"{package} {number}" for package, number in known["versions"].items())
    absent = f" Not installed: {', '.join(known['absent'])}." if known["absent"] else ""
    machine = f"{os.cpu_count()} cores {platform.machine()}, no GPU"
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {machine}; {versions}.{absent}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("known", type=Path)
    parser.add_argument("--oracle", type=Path, nargs="*", default=[])
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    known = json.loads(asked.known.read_text())
    oracles = [json.loads(file.read_text()) for file in (ORACLE, *asked.oracle)]
    print(made(known))
    for oracle in oracles:
        print("", *table(rows(known["jobs"], oracle)), sep="\n")
    if asked.picture:
        every = {name: entry for oracle in oracles for name, entry in oracle.items()}
        draw(rows(known["jobs"], every), len(set(known["jobs"]) & set(every)), asked.picture)


if __name__ == "__main__":
    main()
