"""What is measured, a line of JSON each, in the file as soon as it is there: what comes after may crash or hang."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

Line = dict[str, Any]


class Results(NamedTuple):
    """Where a step writes what it finds."""

    path: Path
    step: str

    def add(self, what: str, **values: Any) -> None:
        line = json.dumps({"step": self.step, "what": what} | values, default=str)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())


def read(path: Path) -> Iterator[Line]:
    """The lines of a file; one that a crash has cut short is left out."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue
