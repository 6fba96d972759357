"""What ``clrtool compare`` is asked for: policies by name, rate or file, and bounds that are known or to be found."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clrtool.cli.plan_asked import two_numbers
from clrtool.cli.plan_bounds import plan_of
from clrtool.cli.run.spec import RunSpec
from clrtool.config.schema import PlanConfig
from clrtool.core.planning.budget import MAX_EPOCHS
from clrtool.core.planning.plan import Plan
from clrtool.core.planning.policies import POLICIES
from clrtool.core.results.candidates import Asked, candidate_plans, check_number, check_policy, check_target
from clrtool.core.results.comparison import BoundsFrom
from clrtool.core.results.record import RunRecord
from clrtool.core.results.verification import read_again
from clrtool.core.schedules.checks import check_positive
from clrtool.errors import ConfigError, as_config_error
from clrtool.report.records.comparison_file import COMPARISON, RANGE_TEST
from clrtool.report.records.record_file import sha256_of
from clrtool.report.records.run import find_run, read_run
from clrtool.report.text.progress import say


@dataclass(frozen=True)
class Request:
    """What is to be compared.

    Args:
        policies: by the name that people read: a plan from a file, a fixed rate, or None for a policy of that name.
        seeds: how many, from that of the config on.
        epochs: length of every training.
        target: the metric to reach; None for that of the reference.
        given: the bounds, where they are known before anything is trained.
    """

    policies: Mapping[str, Asked]
    seeds: int
    epochs: float
    target: float | None
    given: BoundsFrom | None

    def sha256(self, spec: RunSpec, bounds: BoundsFrom) -> str:
        """Hash of all that the trainings follow from."""
        policies = [
            (name, each if each is None or isinstance(each, float) else each.to_dict())
            for name, each in self.policies.items()
        ]
        asked = {"policies": policies, "seeds": self.seeds, "epochs": self.epochs, "bounds": bounds[:2]}
        return sha256_of({"config": spec.config.sha256(), **asked})

    def plans(self, settings: PlanConfig, bounds: BoundsFrom, iterations_per_epoch: int) -> tuple[dict[str, Plan], int]:
        """The plan of each policy, and the iterations that all are trained for.

        Raises:
            ConfigError: one cannot be followed for that number of iterations.
        """
        stepsize = None if settings.stepsize_epochs == "auto" else settings.stepsize_epochs
        with as_config_error():
            return candidate_plans(
                self.policies, bounds, iterations_per_epoch, epochs=self.epochs, stepsize_epochs=stepsize
            )


class InconclusiveError(Exception):
    """The range test does not show both bounds, so there is nothing to compare."""


def read_request(spec: RunSpec, options: Mapping[str, Any]) -> Request:
    """What the options of the command ask for.

    Raises:
        ConfigError: one of them breaks its rule.
        InconclusiveError: a run was given for the bounds, and has none.
    """
    if options["epochs"] is None and spec.config.plan.iterations is not None:
        raise ConfigError("plan.iterations: a comparison counts in epochs: give --epochs")
    epochs = spec.config.plan.epochs if options["epochs"] is None else options["epochs"]
    with as_config_error():
        check_positive("epochs", epochs, at_most=MAX_EPOCHS)
    policies, target = _read_policies(options["policies"]), options["target_accuracy"]
    with as_config_error(f"--target-accuracy {target}: "):
        check_target(target, spec.config.metric.metric)
    return Request(policies, options["seeds"], epochs, target, _known_bounds(spec, options["bounds"], options["run"]))


def _read_policies(text: str) -> dict[str, Asked]:
    """The policies by name. Raises ConfigError for one that is unknown, and for names that are given twice."""
    words = [word.strip() for word in text.split(",")]
    found = {_name(word, words): _policy(word) for word in words}
    if len(found) < len(words):
        raise ConfigError(f"--policies {text}: names a policy twice")
    with as_config_error(f"--policies {text}: "):
        check_number(found)
    return found


def _name(word: str, words: list[str]) -> str:
    """A policy by its name, a file by its stem unless another one is called the same."""
    stem = Path(word).stem if _is_place(word) else word
    return word if [Path(other).stem for other in words].count(stem) > 1 else stem


def _is_place(word: str) -> bool:
    """Whether a word is the path of a plan, or the name of a run in ``runs/``."""
    if word in POLICIES or word.startswith("fixed:") or not word:
        return False
    with contextlib.suppress(OSError):  # too long for a file
        return Path(word).suffix in (".json", ".yaml", ".yml") or Path(word).exists() or (Path("runs") / word).is_dir()
    return False


def _policy(word: str) -> Asked:
    if word.startswith("fixed:"):
        try:
            return float(word.removeprefix("fixed:"))
        except ValueError as error:
            raise ConfigError(f"--policies {word}: must be a number after fixed:, such as fixed:0.01") from error
    if _is_place(word):
        return plan_of(word)
    try:
        check_policy(word)
    except ValueError as error:
        raise ConfigError(f"--policies: {error}; or fixed:RATE, a plan file, a run folder") from error
    return None


def _known_bounds(spec: RunSpec, bounds: str | None, run: str | None) -> BoundsFrom | None:
    """Bounds that need no training: given, of a given run, or of a finished run of the same config."""
    if bounds is not None and run is not None:
        raise ConfigError("--bounds and --run: give only one of them")
    if bounds is not None:
        return _given_bounds(bounds)
    if run is not None:
        place = find_run(run)
        record = read_run(place)
        if record.config_sha256 != spec.config.sha256():
            other = "was measured with another config; without --run, a range test of this config is used"
            say(f"{place}: {other}", quiet=spec.display.quiet)
        return bounds_of(record, place)
    own = {} if spec.fresh else {spec.folder / RANGE_TEST: RANGE_TEST}
    for place, source in (own | {Path("runs") / spec.path.stem: ""}).items():
        if (place / "result.json").is_file():
            record = read_run(place)
            if record.config_sha256 == spec.config.sha256():
                return bounds_of(record, place, source)
    return None if spec.fresh else _bounds_before(spec)


def _bounds_before(spec: RunSpec) -> BoundsFrom | None:
    """Those of the comparison that the folder holds, whose range test is gone."""
    if not (spec.folder / COMPARISON.result).is_file():
        return None
    record = COMPARISON.read(spec.folder)
    return record.bounds if record.config_sha256 == spec.config.sha256() else None


def _given_bounds(text: str) -> BoundsFrom:
    base_lr, max_lr = two_numbers(text, f"--bounds {text}", "BASE,MAX, such as 0.01,0.1")
    if not 0 < base_lr < max_lr < math.inf:
        raise ConfigError(f"--bounds {text}: must be above 0, finite, and the second above the first")
    return BoundsFrom(base_lr, max_lr, "--bounds")


def bounds_of(record: RunRecord, place: Path, source: str = "") -> BoundsFrom:
    """The bounds that this version reads off the curves of a run. Raises InconclusiveError if there are none."""
    bounds = read_again(record)
    if bounds.base_lr is None or bounds.max_lr is None:
        raise InconclusiveError(f"{place} is inconclusive: {bounds.advice[0].value} Or give --bounds BASE,MAX")
    return BoundsFrom(bounds.base_lr, bounds.max_lr, source or str(place), record.cost_epochs, record.data_sha256)
