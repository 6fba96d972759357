"""``python -m tests.gpu``: needs torch, and of what else it needs takes the wheels of ``make gpu-wheels``."""

from __future__ import annotations

import argparse
import datetime
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.gpu import wheels
from tests.gpu.results import Results
from tests.gpu.run import run
from tests.gpu.steps import ALL

FILE = wheels.ROOT / "runs" / "gpu.jsonl"
# How much longer than on a GPU a step of the dry form may take.
DRY = 4
PREFLIGHT = "import sys, torch; torch.zeros(1, device=sys.argv[1]).add(1).item()"


def main() -> int:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # and the step that runs ends with it
    asked = _arguments()
    device, steps = ("cpu" if asked.cpu else "cuda"), [step for step in ALL if asked.only in step.name]
    if asked.cpu:
        steps = [step._replace(seconds=DRY * step.seconds) for step in steps if step.dry]
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # of several, small kernels wait for each other most of the time
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(wheels.ROOT), folder, *_more()])}
        try:
            if wheels.lacking():
                wheels.unpack(Path(folder))
        except wheels.LackingError as error:
            return _refuse(str(error))
        if said := _fault_of(device):
            return _refuse(f"{device} does not compute here: {said}. --cpu runs everything but the capture on a CPU")
        begun = datetime.datetime.now(datetime.UTC)
        Results(asked.out, "all").add("begin", device=device, minutes=asked.minutes, date=f"{begun:%Y-%m-%d}")
        failed = run(steps, device, asked.out, 60 * asked.minutes, environment)
    print(f"{asked.out}: {len(steps) - len(failed)} of {len(steps)} steps done; make gpu-report makes a table of it")
    if failed:
        print(f"not done: {'; '.join(failed)}")
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=sys.modules["tests.gpu"].__doc__)
    parser.add_argument("--cpu", action="store_true", help="the dry form: everything but the capture, and small")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all together (default 9)")
    parser.add_argument("--out", type=Path, default=FILE, help=f"default {FILE.relative_to(wheels.ROOT)}")
    parser.add_argument("--only", default="", metavar="WORDS", help="the steps that have these words in their name")
    asked = parser.parse_args()
    asked.out = asked.out.resolve()
    return asked


def _more() -> list[str]:
    return [each for each in (os.environ.get("PYTHONPATH"),) if each]


def _fault_of(device: str) -> str:
    """What keeps torch from computing there, so that tests that are skipped never look like passes."""
    done = subprocess.run([sys.executable, "-c", PREFLIGHT, device], capture_output=True, text=True, check=False)
    return (done.stderr.strip().splitlines() or ["no reason given"])[-1] if done.returncode else ""


def _refuse(why: str) -> int:
    print(f"error: {why}", file=sys.stderr)
    return 4


if __name__ == "__main__":
    sys.exit(main())
