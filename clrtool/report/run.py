"""The run folder: the files of one range test, which every other command reads.

``config.yaml`` the resolved config; ``curve.csv`` one row per evaluation, appended as it is measured; ``result.json``
bounds, plan, cost and environment; ``range_test.png`` and ``schedule.png``, drawn from these files alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from clrtool.config import RangeTestConfig
from clrtool.config_file import load_config
from clrtool.core.bounds import Bounds
from clrtool.core.curve import Curve, Point, SweepOutcome
from clrtool.core.metric import ACCURACY, Metric
from clrtool.core.record import SCHEMA_VERSION, Group, RunRecord, SweepRecord
from clrtool.core.verification import Verification
from clrtool.errors import ConfigError, MachineError
from clrtool.files import check_writable, read_text, write_whole
from clrtool.report.plan_file import is_plan, to_plan
from clrtool.report.record_file import DAMAGED, damaged, load

COLUMNS = ("seed", *Point._fields[:-1])  # and the name of the metric
FILES = ("config.yaml", "curve.csv", "result.json", "range_test.png", "schedule.png")
MEASURED = FILES[1:3]
# In result.json for its readers; they follow from the rest.
DERIVED = ("seeds", "outcome", "cost_epochs", "evaluation_share", "standard_error")
# By its first line a folder is known as a run, whose files may be replaced.
HEADER = "# The resolved config of a range test, written by clrtool.\n"


def open_run(folder: Path, config: RangeTestConfig, *, fresh: bool = False) -> RunRecord | None:
    """Check that a run folder is free for a config, and give back what is finished in it. Nothing is changed yet.

    Returns:
        The record of a finished run of the same config, else None.

    Raises:
        ConfigError: the folder holds a run of another config and ``fresh`` is not set, or files of somebody else.
        MachineError: the folder cannot be written.
    """
    saved, measured = folder / "config.yaml", [name for name in MEASURED if (folder / name).exists()]
    if (found := [name for name in FILES if (folder / name).exists()]) and not _is_ours(saved):
        names = ", ".join(found)
        raise ConfigError(f"{folder} holds a {names} that clrtool did not write: give another folder with -o DIR")
    if measured and not fresh:
        if _hash(saved) != config.sha256():
            raise ConfigError(
                f"{folder} holds a run of another config: give this one another folder with -o DIR, "
                "or replace the old run with --fresh"
            )
        if "result.json" in measured:
            return read_run(folder)
    check_writable(folder)
    return None


def _is_ours(saved: Path) -> bool:
    return saved.is_file() and saved.read_bytes().startswith(HEADER.encode())


def _hash(saved: Path) -> str:
    try:
        return load_config(saved).sha256()
    except ConfigError as error:
        raise ConfigError(*error.faults, f"{saved.parent}: to replace this run, add --fresh") from error


class CurveLog:
    """The beginning of a run: ``config.yaml``, and ``curve.csv`` in which a row is as soon as it is measured.

    What an earlier run left in the folder goes only now, when the new one is about to be trained.
    """

    def __init__(self, folder: Path, config: RangeTestConfig) -> None:
        self.path, self._config = folder / "curve.csv", config

    def __enter__(self) -> Self:
        write_whole(self.path.with_name("config.yaml"), HEADER + self._config.to_yaml())
        for name in FILES[2:]:
            self.path.with_name(name).unlink(missing_ok=True)
        write_whole(self.path, _row((*COLUMNS, self._config.metric.metric.name)))
        self._file: TextIO = self.path.open("a", encoding="utf-8", newline="")
        return self

    def append(self, seed: int, point: Point) -> None:
        try:
            self._file.write(_row((seed, *point)))
            self._file.flush()
        except OSError as error:
            raise MachineError(f"{self.path}: cannot append a row: {error.strerror or error}") from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


def write_run(folder: Path, record: RunRecord) -> None:
    """Write ``curve.csv`` and then ``result.json``, whose presence says that the run is finished."""
    rows = ((curve.seed, *point) for curve in record.sweep.curves for point in curve.points())
    write_whole(folder / "curve.csv", "".join(map(_row, ((*COLUMNS, record.sweep.metric.name), *rows))))
    write_whole(folder / "result.json", to_json(record))


def to_json(record: RunRecord) -> str:
    """The content of ``result.json``."""
    return json.dumps(_to_dict(record), indent=2, allow_nan=False) + "\n"


def read_run(folder: Path | str) -> RunRecord:
    """Read a finished run. Raises ConfigError for a folder or a file that is not one."""
    folder = Path(folder)
    result, curve_file = folder / "result.json", folder / "curve.csv"
    values = load(result)
    try:
        sweep = dict(values["sweep"])
        outcomes = {int(seed): SweepOutcome[word.upper()] for seed, word in sweep.pop("outcomes").items()}
        for derived in DERIVED:
            sweep.pop(derived, None)
        sweep["metric"] = Metric.from_dict(sweep.get("metric") or vars(ACCURACY))
        sweep["groups"] = tuple(Group(**group) for group in sweep.get("groups", ()))
        sweep["warnings"] = tuple(sweep.get("warnings", ()))
        return RunRecord(
            sweep=SweepRecord(**sweep, curves=_read_curves(curve_file, outcomes, sweep["metric"].name)),
            bounds=Bounds.from_dict(values["bounds"]),
            plan=to_plan(values["plan"]),
            environment=values["environment"],
            config_sha256=values["config_sha256"],
            data_sha256=values["data_sha256"],
            verification=_to_verification(values.get("verification")),
        )
    except DAMAGED as error:
        raise damaged(result, error) from error


def find_run(source: str) -> Path:
    """A run folder or JSON file by its path; a config, by path or name, stands for its default run folder."""
    place, default = Path(source), Path("runs") / Path(source).stem
    if place.is_dir() or place.suffix.lower() == ".json" or is_plan(place):
        return place
    if default.is_dir():
        return default
    raise ConfigError(f"{source}: no run folder or plan file, and there is no {default}; clrtool rangetest makes one")


def _to_dict(record: RunRecord) -> dict[str, Any]:
    sweep = record.sweep
    measured = {name: value for name, value in vars(sweep).items() if name != "curves"}
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "inconclusive" if record.bounds.verdict.word == "inconclusive" else "done",
        "bounds": record.bounds.to_dict(),
        "plan": record.plan.to_dict() if record.plan else None,
        "verification": record.verification.to_dict() if record.verification else None,
        "sweep": measured
        | {
            "seeds": [curve.seed for curve in sweep.curves],
            **{name: getattr(sweep, name) for name in ("cost_epochs", "evaluation_share", "standard_error")},
            "metric": vars(sweep.metric),
            "groups": [vars(group) for group in sweep.groups],
            "warnings": list(sweep.warnings),
            "outcome": sweep.outcome.word,
            "outcomes": {str(curve.seed): curve.outcome.word for curve in sweep.curves},
        },
        "environment": dict(record.environment),
        "config_sha256": record.config_sha256,
        "data_sha256": record.data_sha256,
    }


def _to_verification(values: Mapping[str, Any] | None) -> Verification | None:
    return None if values is None else Verification.from_dict(values)


def _row(values: tuple[Any, ...]) -> str:
    """One CSV row; a float as the shortest text that reads back to it, NaN as nothing."""
    return ",".join("" if isinstance(value, float) and math.isnan(value) else str(value) for value in values) + "\n"


def _read_curves(file: Path, outcomes: Mapping[int, SweepOutcome], metric: str) -> tuple[Curve, ...]:
    try:
        text = read_text(file)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    header, *rows = [line.split(",") for line in text.splitlines()] or [[]]
    if tuple(header) != (*COLUMNS, metric):
        raise ConfigError(f"{file}:1: the columns must be {','.join(COLUMNS)},{metric}")
    points: dict[int, list[Point]] = {seed: [] for seed in outcomes}
    for number, row in enumerate(rows, 2):
        try:
            seed, iteration, *numbers = row
            points[int(seed)].append(Point(int(iteration), *(float(text) if text else math.nan for text in numbers)))
        except DAMAGED as error:
            raise ConfigError(f"{file}:{number}: not a row of this run: {','.join(row)[:80]!r}") from error
    if lost := [seed for seed, found in points.items() if not found]:
        raise ConfigError(f"{file}: has no row of seed {lost[0]}")
    return tuple(Curve.from_points(seed, outcomes[seed], found) for seed, found in points.items())
