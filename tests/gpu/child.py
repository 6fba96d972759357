"""One step, in a process of its own: ``python -m tests.gpu.child FILE DEVICE STEP MODULE:FUNCTION [ARGS]``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from tests.gpu.results import Results


def main(file: str, device: str, step: str, work: str, *args: str) -> None:
    module, _, function = work.partition(":")
    name = module if "." in module else f"tests.gpu.{module}"
    getattr(importlib.import_module(name), function)(Results(Path(file), step), device, *args)


if __name__ == "__main__":
    main(*sys.argv[1:])
