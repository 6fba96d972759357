"""The files of a comparison, in a folder of their own.

``config.yaml`` the resolved config; ``runs.csv`` one row per evaluation; ``compare.json`` who won, the plans, what they
reached and the environment; ``compare.png``, drawn from these files alone, and ``compare.alt.txt``, what it shows in
words; ``range_test/``, a run of its own, where the bounds had to be found first.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clrtool.core.reading.curve import Point
from clrtool.core.reading.metric import Metric
from clrtool.core.results.comparison import COMPARISON_VERSION, BoundsFrom, Candidate, Comparison, Training
from clrtool.errors import ConfigError
from clrtool.files import read_text
from clrtool.report.records.evaluations import columns, csv_text, text_sha256, to_point
from clrtool.report.records.plan_file import to_plan
from clrtool.report.records.record_file import reading, sealed
from clrtool.report.records.result_files import ResultFiles

RUNS, KEYS = "runs.csv", ("policy", "seed")
# The run that the bounds were found by, in the folder of the comparison.
RANGE_TEST = "range_test"


def comparison_to_json(record: Comparison) -> str:
    """The content of ``compare.json``."""
    return sealed(_to_dict(record))


def _made(folder: Path, values: Mapping[str, Any]) -> Comparison:
    points = _read_runs(folder / RUNS, values)
    return Comparison(
        candidates=tuple(_to_candidate(each, points) for each in values["policies"]),
        bounds=BoundsFrom(**values["bounds"]),
        metric=Metric(**values["metric"]),
        warnings=tuple(values["warnings"]),
        constant=values.get("constant"),  # of a comparison of before it was kept
        **{name: values[name] for name in _KEPT},
    )


# What compare.json holds by the names of the record.
_KEPT = ("iterations", "iterations_per_epoch", "heldout_samples", "asked_target", "request_sha256", "environment",
         "config_sha256", "data_sha256", "sources")  # fmt: skip


def _to_dict(record: Comparison) -> dict[str, Any]:
    judgement = record.judgement
    best = next((each.plan for each in record.candidates if each.name == judgement.best), None)
    return {
        "schema_version": COMPARISON_VERSION,
        "status": "done",
        "verdict": judgement.verdict.word,
        "winner": judgement.winner,
        "best": judgement.best,
        "within_noise": list(judgement.within),
        "noise": judgement.noise,
        "reason": judgement.reason,
        "target": record.target,
        "constant": record.constant,
        "seeds": list(record.seeds),
        "epochs": record.epochs,
        "cost_epochs": record.cost_epochs,
        "standard_error": record.standard_error,
        "policies": [_policy(record, each) for each in record.candidates],
        "plan": None if best is None else best.to_dict(),  # for who plans from this file
        "bounds": record.bounds._asdict(),
        "metric": vars(record.metric),
        "warnings": list(record.warnings),
        "runs_sha256": text_sha256(_runs_text(record)),
        **{name: getattr(record, name) for name in _KEPT},
    }


def _policy(record: Comparison, candidate: Candidate) -> dict[str, Any]:
    reached = [training.reaches(record.target, record.metric) for training in candidate.trainings]
    pairs = list(zip(candidate.trainings, reached, strict=True))
    broken = [(training.seed, training.points[-1]) for training in candidate.trainings if not training.is_finite]
    return {
        "name": candidate.name,
        "mean": candidate.mean,
        "standard_deviation": candidate.deviation,
        "finals": [None if math.isnan(each) else each for each in candidate.finals],
        "iterations_to_target": reached,
        "seconds_to_target": [training.seconds_to(iterations) for training, iterations in pairs],
        "seconds": [training.seconds for training in candidate.trainings],
        "not_finite": [{"seed": seed, "iteration": point.iteration, "lr": point.lr} for seed, point in broken],
        "held_iterations": record.held(candidate),
        "engine": candidate.engine,
        "plan": candidate.plan.to_dict(),
    }


def _to_candidate(values: Mapping[str, Any], points: Mapping[tuple[str, int], list[Point]]) -> Candidate:
    name, plan = values["name"], to_plan(values["plan"])
    if plan is None:
        raise ValueError(f"policy {name} has no plan")
    seeds = [seed for policy, seed in points if policy == name]
    trainings = [
        Training(seed, tuple(points[name, seed]), seconds)
        for seed, seconds in zip(seeds, values["seconds"], strict=True)
    ]
    return Candidate(name, plan, tuple(trainings), values["engine"])


def _runs_text(record: Comparison) -> str:
    """The content of ``runs.csv``."""
    return csv_text((columns(KEYS, record.metric.name), *_rows(record)))


def _rows(record: Comparison) -> Iterator[tuple[Any, ...]]:
    for candidate in record.candidates:
        for training in candidate.trainings:
            yield from ((candidate.name, training.seed, *point) for point in training.points)


def _read_runs(file: Path, values: Mapping[str, Any]) -> dict[tuple[str, int], list[Point]]:
    """The evaluations by policy and seed."""
    points: dict[tuple[str, int], list[Point]] = {}
    with reading(file):
        text = read_text(file)
        if values["runs_sha256"] != text_sha256(text):
            raise ConfigError(f"{file}: was changed since clrtool wrote it, for its sha256 is another")
        _, *rows = csv.reader(io.StringIO(text, newline=""))
        for policy, seed, *numbers in rows:
            points.setdefault((policy, int(seed)), []).append(to_point(numbers))
    return points


COMPARISON = ResultFiles(
    what="a comparison",
    writer="clrtool compare",
    another="another config, or other policies, seeds, epochs or bounds",
    rows=RUNS,
    stem="compare",
    to_rows=_runs_text,
    to_json=comparison_to_json,
    made=_made,
)
