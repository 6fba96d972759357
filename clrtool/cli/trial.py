"""What is printed for another system, run in that system's package before it is given, where the package is installed.

In a process of its own: the packages take seconds to import and print what they like, and some end the process.
"""

from __future__ import annotations

import json
import os
import subprocess  # nosec B404 # it starts nothing but ourselves
from importlib.util import find_spec

import numpy as np

from clrtool.cli.run.subprocesses import python
from clrtool.core.planning.plan import Plan
from clrtool.core.schedules import FloatArray
from clrtool.errors import ConfigError
from clrtool.report.programs.words import equals

# Iterations that are run at the most, from the first on, and seconds that it may take.
ITERATIONS, SECONDS = 30_000, 300
# No package has to look for a GPU to say what a learning rate is.
ENVIRONMENT = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}


def run_printed(plan: Plan, form: str, text: str) -> str | None:
    """Run what is printed of a plan in its package.

    Returns:
        Why it could not be run, for whoever is to be told; None if it was, and gave the plan's values.

    Raises:
        ConfigError: the package refuses it, or gives other values than the plan has.
    """
    if find_spec(form) is None:
        return "it is not installed here"
    asked = {"form": form, "text": text, "steps": min(plan.iterations, ITERATIONS)}
    try:
        done = subprocess.run(  # noqa: S603  # nosec B603 # our own words
            [*python(), "-m", "clrtool.cli.trial_child"], input=json.dumps(asked),
            capture_output=True, text=True, timeout=SECONDS, check=False, env=os.environ | ENVIRONMENT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"it took longer than {SECONDS} s"
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return f"it cannot be imported here: {lines[-1] if lines else f'exit code {done.returncode}'}"
    found = json.loads(done.stdout)
    if "refused" in found:
        raise ConfigError(f"{form} refuses what {plan.policy} would be there: {found['refused']}")
    rates, momenta = zip(*found["values"], strict=True)
    _hold_against(plan, form, "learning rate", np.array(rates), plan.lr(range(len(rates))))
    ours = plan.momentum(range(len(rates)))
    if ours is not None and None not in momenta:
        _hold_against(plan, form, "momentum", np.array(momenta), ours)
    return None


def _hold_against(plan: Plan, package: str, what: str, theirs: FloatArray, ours: FloatArray) -> None:
    off = np.flatnonzero(~equals(theirs, ours))
    if len(off):
        t = off[0]
        raise ConfigError(
            f"{package} has the {what} {theirs[t]:.6g} at iteration {t:,}, where {plan.policy} has "
            f"{ours[t]:.6g}: "
            "take what --format torch prints"
        )
