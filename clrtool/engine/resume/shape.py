"""The types that a checkpoint must have, checked before it is used: it may come from anybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, Strict, TypeAdapter

from clrtool.core.racing.result import Race
from clrtool.core.reading.curve import Curve, Point, SweepOutcome
from clrtool.core.schedules.checks import MAX_LR
from clrtool.engine.resume.checkpoint import CheckpointFolder, Found
from clrtool.engine.resume.journal import FORMAT
from clrtool.errors import ConfigError
from clrtool.words import is_newer

Number = Annotated[float, Strict()]
Whole = Annotated[int, Strict(), Field(ge=0, le=2**53)]
Signed = Annotated[int, Strict()]
Seconds = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]
Points = list[tuple[Whole, Number, Number, Number, Number, Number]]
Spent = Literal["train", "evaluation", "capture"]


class _Running(BaseModel):
    """The state of a segment that was interrupted; torch checks what its models and optimizers hold."""

    name: str
    engine: str
    seeds: list[int]
    start: Whole
    broken: list[bool]
    losses: list[list[Number]]
    points: list[Points]
    team: dict[str, Any]


class _Tensor(BaseModel):
    """Of each chunk the rank, offset and size in the tensor, and beginning and length in the rank's file."""

    shape: list[Whole]
    dtype: str
    chunks: list[tuple[Whole, list[Whole], list[Whole], Whole, Whole]]


class _Parts(BaseModel):
    tensors: dict[str, _Tensor]
    sha256: list[str]


class _Checkpoint(BaseModel):
    config_sha256: str
    data_sha256: str
    sources: dict[str, str]
    deterministic: bool
    device: str
    micro_batches: Whole
    environment: dict[str, bool | int | str | None]
    finished: dict[str, Any]
    running: _Running | None
    seconds: dict[Spent, Seconds]
    elsewhere: dict[str, dict[Spent, Seconds]] = {}
    warnings: list[str]
    parts: _Parts | None = None


class _Share(BaseModel):
    shard: str


# Of what a scout finds, which tries rates from 1e-6 to 30.
_LEAST_LR = 1 / MAX_LR
_RACE = TypeAdapter(Race)
_SCOUT = TypeAdapter(tuple[Number, Number, Whole])
_SWEEP = TypeAdapter(tuple[str, str, Points])
# Of a race over values: a value and what a run of it says.
_READINGS = TypeAdapter(list[tuple[Whole, Signed, Signed, Whole, Whole, Number, Number | None, Number | None]])
_LOSSES = TypeAdapter(list[Number])
_TRAINING = TypeAdapter(tuple[str, Points, Seconds])


def load_checkpoint(folder: CheckpointFolder) -> Found:
    """Load the newest undamaged checkpoint of a folder.

    Raises:
        ConfigError: a newer clrtool wrote it, or something else did.
    """
    found = folder.load()
    if found.values is not None:
        _check(folder.folder.parent, found.values)
    return found


def _check(folder: Path, values: Mapping[str, Any]) -> None:
    if is_newer(version := values.get("format"), FORMAT):
        raise ConfigError(
            f"{folder}: was started by a newer clrtool, whose checkpoint this one cannot read: upgrade clrtool to "
            "resume it, or measure it again with --fresh"
        )
    try:
        if version != FORMAT:
            raise ValueError(version)
        for name, result in _Checkpoint.model_validate(dict(values)).finished.items():
            _check_result(name, result)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{folder}: its checkpoint was not written by this clrtool: measure it again with --fresh"
        ) from error


def _check_result(name: str, result: object) -> None:
    """Raise ValueError, KeyError or TypeError unless this is the result of a segment with that name."""
    if name == "share":
        _Share.model_validate(result)
    elif name == "race":
        _RACE.validate_python(asdict(Race.from_dict(result)))  # type: ignore[arg-type] # whatever it is
    elif name == "scout":
        checked_scout(result)
    elif name == "values":
        _READINGS.validate_python(result)
    elif name.startswith("beginning "):
        _LOSSES.validate_python(result)
    elif name.startswith("seed "):
        _, outcome, points = _SWEEP.validate_python(result)
        _check_curve(points, SweepOutcome[outcome])
    else:
        _TRAINING.validate_python(result)


def checked_scout(values: object) -> tuple[float, float, int]:
    """The range that a scout has found, and its iterations. Raises ValueError if it is none."""
    start_lr, end_lr, spent = _SCOUT.validate_python(values)
    if not _LEAST_LR <= start_lr < end_lr <= MAX_LR:
        raise ValueError(start_lr)
    return start_lr, end_lr, spent


def _check_curve(points: Points, outcome: SweepOutcome) -> None:
    """Raise ValueError unless these are the evaluations of a sweep."""
    curve = Curve.from_points(0, outcome, [Point(*point) for point in points])
    if not len(curve.lr) or curve.lr[0] <= 0 or (len(curve.lr) > 1 and curve.lr[0] == curve.lr[-1]):
        raise ValueError("a sweep begins somewhere and comes further")
