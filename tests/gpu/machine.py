"""The machine: what a bug report needs, and what clrtool's own test of each device says."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess

import torch

from clrtool.cli.main import main
from tests.benchmarks.finders import absent
from tests.gpu.results import Results


def survey(results: Results, device: str) -> None:
    card = "none, a CPU" if device == "cpu" else torch.cuda.get_device_name()
    results.add("card", card=card, driver=_driver(), cuda=torch.version.cuda, peers_absent=absent())
    said = io.StringIO()
    code: object = 0
    with contextlib.redirect_stdout(said):
        try:
            main(["doctor", "--json"])
        except SystemExit as stop:
            code = stop.code
    results.add("doctor", code=code, **json.loads(said.getvalue()))
    if code:
        raise SystemExit("clrtool doctor found a fault")


def _driver() -> str:
    """Of the card, and whether it is shared: the tool that tells both may not be there."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return "not told"
    query = [tool, "--query-gpu=driver_version,mig.mode.current,clocks.sm,power.limit", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=20)
    return done.stdout.strip() or "not told"
