"""The run folder: the files of one range test, which every other command reads.

``config.yaml`` the resolved config; ``curve.csv`` one row per evaluation, appended as it is measured; ``result.json``
bounds, plan, cost and environment; ``range_test.png`` and ``schedule.png``, drawn from these files alone; beside each
``NAME.alt.txt``, what it shows in words.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clrtool.config.file import load_config
from clrtool.config.schema import RangeTestConfig
from clrtool.config.strict_yaml import read_yaml
from clrtool.core.racing.going_on import GoingOn
from clrtool.core.racing.result import Race
from clrtool.core.reading.bounds import Bounds
from clrtool.core.reading.curve import Curve, Point, SweepOutcome
from clrtool.core.reading.metric import ACCURACY, Metric
from clrtool.core.results.record import SCHEMA_VERSION, Group, RunRecord, SweepRecord, Verification
from clrtool.errors import ConfigError, MachineError
from clrtool.files import check_writable, read_text, write_whole
from clrtool.report.records.evaluations import columns, csv_text, text_sha256, to_point
from clrtool.report.records.kinds import checked
from clrtool.report.records.plan_file import is_plan, to_plan
from clrtool.report.records.record_file import (
    CONFIG,
    DAMAGED,
    YAML_ENDINGS,
    changed,
    intact,
    load,
    own_files,
    reading,
    sealed,
)
from clrtool.words import nearest

KEYS = ("seed",)
FILES = (
    CONFIG, "curve.csv", "result.json", "range_test.png", "range_test.alt.txt", "schedule.png",
    "schedule.alt.txt",
)  # fmt: skip
MEASURED, PICTURES = FILES[1:3], FILES[3:]
# In result.json for its readers; they follow from the rest.
COMPUTED = ("stopped_at", "cost_epochs", "evaluation_share", "standard_error")
DERIVED = ("seeds", "outcome", *COMPUTED)
# By its first line a folder is known as a run, whose files may be replaced.
HEADER = "# The resolved config of a range test, written by clrtool.\n"
# What is written into folders of checkpoints: generations and their parts; workers, their logs, and the range of all.
_CHECKPOINT = re.compile(r"\..*|\d{8,18}(-[0-9a-f]{64}\.pt)?|\d+-of-\d+(\.log)?|task-\d+|scout-.*")
# How a run that cannot be read is mended.
_REPLACED = "to replace this run, add --fresh"


def open_run(folder: Path, config: RangeTestConfig, *, fresh: bool = False) -> RunRecord | None:
    """Check that a run folder is free for a config, and give back what is finished in it; make it if it is not there.

    Returns:
        The record of a finished run of the same config, else None.

    Raises:
        ConfigError: the folder holds a run of another config and ``fresh`` is not set, or files of somebody else.
        MachineError: the folder cannot be written.
    """
    found = finished_run(folder, config, fresh=fresh)
    if found is None:
        check_writable(folder)
    return found


def finished_run(folder: Path, config: RangeTestConfig, *, fresh: bool = False) -> RunRecord | None:
    """The same look into a folder, which changes nothing, and does not tell whether it can be written."""
    found = own_files(folder, FILES, HEADER, "clrtool")
    if fresh or not {*MEASURED} & {*found}:
        return None
    if _hash(folder / CONFIG) != config.sha256():
        raise ConfigError(
            f"{folder} holds a run of another config: give this one another folder with -o DIR, "
            "or replace the old run with --fresh"
        )
    if "result.json" not in found:
        return None
    try:
        return read_run(folder)
    except ConfigError as error:
        raise ConfigError(*error.faults, f"{folder}: {_REPLACED}") from error


def _hash(saved: Path) -> str:
    try:
        return load_config(saved).sha256()
    except ConfigError as error:
        mend = f"if a newer clrtool wrote it, upgrade clrtool; {_REPLACED}"
        raise ConfigError(*error.faults, f"{saved.parent}: {mend}") from error


@contextmanager
def curve_log(folder: Path, config: RangeTestConfig) -> Iterator[Callable[[int, Point], None]]:
    """Begin a run: ``config.yaml``, and ``curve.csv``, to which what it gives adds a row as soon as it is measured.

    What an earlier run left in the folder goes only now, when the new one is about to be trained; its result first,
    so that it is never taken for that of the new config. A row that was torn when a run was killed goes too: the rows
    of a run that is resumed are written again from its checkpoint.
    """
    for name in FILES[2:]:
        (folder / name).unlink(missing_ok=True)
    write_whole(folder / CONFIG, HEADER + config.to_yaml())
    path = folder / "curve.csv"
    write_whole(path, csv_text([columns(KEYS, config.metric.metric.name)]))
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)

    def append(seed: int, point: Point) -> None:
        row = csv_text([(seed, *point)]).encode()
        try:
            if os.write(file, row) < len(row):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise MachineError(f"{path}: cannot append {len(row)} bytes: {error.strerror}") from error

    try:
        yield append
    finally:
        os.close(file)


def has_pictures(folder: Path, record: RunRecord) -> bool:
    """Whether the pictures of a run are there: they are drawn after the result is safe."""
    wanted = PICTURES if record.plan is not None else PICTURES[:2]
    return all((folder / name).exists() for name in wanted)


def check_checkpoint(folder: Path) -> None:
    """Raise ConfigError for a folder of checkpoints that holds what somebody else has put there: it goes as a whole."""
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if foreign := next((name for name in found if not _CHECKPOINT.fullmatch(name)), None):
        raise ConfigError(f"{folder} holds a {foreign} that clrtool did not write: give another folder with -o DIR")


def remove_checkpoint(folder: Path) -> None:
    """Remove the checkpoints of a test that is finished or not wanted, if it holds nothing else."""
    if folder.is_symlink():
        raise MachineError(f"{folder}: is a link, which clrtool did not make; remove it")
    check_checkpoint(folder)
    shutil.rmtree(folder, ignore_errors=True)


def write_run(folder: Path, record: RunRecord) -> None:
    """Write ``curve.csv`` and then ``result.json``, whose presence says that the run is finished."""
    for name in PICTURES:  # of what is about to change
        (folder / name).unlink(missing_ok=True)
    write_whole(folder / "curve.csv", _curves_text(record.sweep))
    write_whole(folder / "result.json", to_json(record))


def to_json(record: RunRecord) -> str:
    """The content of ``result.json``."""
    return sealed(_to_dict(record))


def read_run(folder: Path | str) -> RunRecord:
    """Read a finished run. Raises ConfigError for a folder or a file that is not one."""
    folder = Path(folder)
    result, curve_file = folder / "result.json", folder / "curve.csv"
    values = load(result)
    with intact(result):
        sweep = dict(values["sweep"])
        outcomes = {int(seed): SweepOutcome[word.upper()] for seed, word in sweep.pop("outcomes").items()}
        for derived in DERIVED:
            sweep.pop(derived, None)
        sweep["metric"] = Metric(**(sweep.get("metric") or vars(ACCURACY)))
        sweep["groups"] = tuple(Group(**group) for group in sweep.get("groups", ()))
        sweep["warnings"] = tuple(sweep.get("warnings", ()))
        record = RunRecord(
            sweep=SweepRecord(**sweep, curves=_read_curves(curve_file, values, outcomes, sweep["metric"].name)),
            bounds=Bounds.from_dict(values["bounds"]),
            plan=to_plan(values["plan"]),
            environment={**values["environment"]},
            config_sha256=values["config_sha256"],
            data_sha256=values["data_sha256"],
            verification=None if (runs := values.get("verification")) is None else Verification.from_dict(runs),
            race=None if (race := values.get("race")) is None else Race.from_dict(race),
            sources={**values.get("sources", {})},
            going_on=None if (way := values.get("going_on")) is None else GoingOn.from_dict(way),
        )
        return checked(record, to_json)


def find_run(source: str) -> Path:
    """A run folder or JSON file by its path; a config, by path or name, stands for its default run folder."""
    place, default = Path(source), Path("runs") / Path(source).stem
    if place.is_dir() or place.suffix.lower() == ".json" or is_plan(place):
        return place
    if default.is_dir():
        return default
    if place.is_file():
        if place.suffix.lower() in YAML_ENDINGS:
            read_yaml(read_text(place), source)  # which says what is wrong with it, and where
        raise ConfigError(
            f"{source}: neither a plan nor the script or config of a training with a schedule in it, nor a config with "
            f"a run in {default}; clrtool rangetest makes one"
        )
    runs = sorted(path.parent.name for path in default.parent.glob("*/result.json"))
    hint = nearest(source, runs) if runs else "clrtool rangetest makes one"
    raise ConfigError(f"{source}: no run folder or plan file, and there is no {default}; {hint}")


def _to_dict(record: RunRecord) -> dict[str, Any]:
    sweep = record.sweep
    measured = {name: value for name, value in vars(sweep).items() if name != "curves"}
    if sweep.capture_seconds is None:
        del measured["capture_seconds"]
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "inconclusive" if record.bounds.verdict.word == "inconclusive" else "done",
        "bounds": record.bounds.to_dict(),
        "plan": record.plan.to_dict() if record.plan else None,
        "verification": record.verification.to_dict() if record.verification else None,
        "race": record.race.to_dict() if record.race else None,
        **({"going_on": record.going_on.to_dict()} if record.going_on else {}),
        "sweep": measured
        | {
            "seeds": [curve.seed for curve in sweep.curves],
            **{name: getattr(sweep, name) for name in COMPUTED},
            "metric": vars(sweep.metric),
            "groups": [_group(group) for group in sweep.groups],
            "warnings": list(sweep.warnings),
            "outcome": sweep.outcome.word,
            "outcomes": {str(curve.seed): curve.outcome.word for curve in sweep.curves},
        },
        "environment": dict(record.environment),
        "config_sha256": record.config_sha256,
        "data_sha256": record.data_sha256,
        "sources": dict(record.sources),
        "curve_sha256": text_sha256(_curves_text(sweep)),
    }


def _group(group: Group) -> dict[str, Any]:
    """A group, without what older results do not have where it says nothing."""
    return {name: value for name, value in vars(group).items() if name != "decoupled" or value}


def _curves_text(sweep: SweepRecord) -> str:
    """The content of ``curve.csv``: a row an evaluation, seed after seed."""
    rows = ((curve.seed, *point) for curve in sweep.curves for point in curve.points())
    return csv_text((columns(KEYS, sweep.metric.name), *rows))


def _read_curves(
    file: Path, values: Mapping[str, Any], outcomes: Mapping[int, SweepOutcome], metric: str
) -> tuple[Curve, ...]:
    with reading(file):
        text = read_text(file)
    if values.get("curve_sha256", text_sha256(text)) != text_sha256(text):  # version 1 had none
        raise changed(file)
    header, *rows = [line.split(",") for line in text.splitlines()] or [[]]
    if tuple(header) != columns(KEYS, metric):
        raise ConfigError(f"{file}:1: the columns must be {','.join(columns(KEYS, metric))}")
    points: dict[int, list[Point]] = {seed: [] for seed in outcomes}
    for number, row in enumerate(rows, 2):
        try:
            seed, *numbers = row
            points[int(seed)].append(to_point(numbers))
        except DAMAGED as error:
            raise ConfigError(f"{file}:{number}: not a row of this run: {','.join(row)[:80]!r}") from error
    if lost := [seed for seed, found in points.items() if not found]:
        raise ConfigError(f"{file}: has no row of seed {lost[0]}")
    return tuple(Curve.from_points(seed, outcomes[seed], found) for seed, found in points.items())
