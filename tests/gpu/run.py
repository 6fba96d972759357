"""Runs the steps, each in a process with a limit of its own, as long as there is time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.gpu.results import Results
from tests.gpu.steps import Step
from tests.gpu.wheels import ROOT

# With less time than this left a step is not begun: torch alone takes as long to load.
LEAST = 10.0
# What a step said last, kept where it failed.
TAIL = 2000


def run(steps: Sequence[Step], device: str, file: Path, seconds: float, environment: Mapping[str, str]) -> list[str]:
    """Run what there is time for; the names of the steps that failed or were not reached."""
    end, failed = time.monotonic() + seconds, list[str]()
    for step in steps:
        begin = time.monotonic()
        left = end - begin
        if left < LEAST:
            how, said = "not reached", ""
        else:
            how, said = _run(step, device, file, min(step.seconds, left), environment)
        took = time.monotonic() - begin
        Results(file, step.name).add("end", how=how, seconds=round(took, 1), said="" if how == "done" else said[-TAIL:])
        print(f"{took:6.1f} s  {step.name}: {how}", flush=True)
        if how != "done":
            failed.append(step.name)
    return failed


def _run(step: Step, device: str, file: Path, seconds: float, environment: Mapping[str, str]) -> tuple[str, str]:
    """How a step ended, and what it said."""
    command = [sys.executable, "-m", "tests.gpu.child", str(file), device, step.name, step.work, *step.args]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", start_new_session=True,
    ) as child:  # fmt: skip
        try:
            said, _ = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)  # and whatever it has started
            return f"killed after {seconds:.0f} s", child.communicate()[0]
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            raise
    if child.returncode < 0:
        return f"ended by {signal.Signals(-child.returncode).name}", said
    return ("done" if child.returncode == 0 else "failed"), said
