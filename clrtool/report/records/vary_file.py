"""The files of a race over values, in a folder of their own.

``config.yaml`` the resolved config; ``vary.csv`` one row per reading; ``vary.json`` which value to take, its bounds,
the reason, every reading and the environment; ``vary.png``, drawn from this file alone, and ``vary.alt.txt``, what it
shows in words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clrtool.core.racing.contest import Reading
from clrtool.core.racing.going_on import Start
from clrtool.core.racing.probes import Probe
from clrtool.core.racing.result import Race
from clrtool.core.reading.metric import Metric
from clrtool.core.results.varied import VARY_VERSION, Tried, VaryRecord
from clrtool.report.records.evaluations import csv_text
from clrtool.report.records.record_file import sealed
from clrtool.report.records.result_files import ResultFiles

# What vary.json holds by the names of the record.
_KEPT = ("keys", "first", "has_own", "seeds", "budget", "keeps_all", "environment", "config_sha256", "data_sha256",
         "sources", "request_sha256", "warnings")  # fmt: skip


def varied_to_json(record: VaryRecord) -> str:
    """The content of ``vary.json``."""
    chosen, scaling = record.chosen, record.batch_scaling
    values = {
        "schema_version": VARY_VERSION,
        "status": "inconclusive" if chosen is None else "done",
        "verdict": record.verdict.word,
        "chosen": None if chosen is None else _told(record, chosen),
        "reason": record.reason,
        "share": record.share,
        "values": [_told(record, value) for value in range(len(record.tried))],
        "batch_scaling": None if scaling is None else asdict(scaling),
        "tried": [each._asdict() for each in record.tried],
        "metric": vars(record.metric),
        "start": None if record.start is None else asdict(record.start),
        "race": record.pilot.to_dict(),
        "readings": [_reading(each) for each in record.readings],
        **{name: getattr(record, name) for name in _KEPT},
    }
    return sealed(values)


def _made(_folder: Path, values: Mapping[str, Any]) -> VaryRecord:
    kept = {name: values[name] for name in _KEPT}
    return VaryRecord(
        tried=tuple(_to_tried(each) for each in values["tried"]),
        pilot=Race.from_dict(values["race"]),
        readings=tuple(map(_to_reading, values["readings"])),
        metric=Metric(**values["metric"]),
        start=None if (start := values.get("start")) is None else Start(**start),
        **kept | {name: tuple(kept[name]) for name in ("keys", "warnings")},
    )


def _told(record: VaryRecord, value: int) -> dict[str, Any]:
    """What a value came to, for who reads the file."""
    if not record.has_learned:
        return {"values": dict(zip(record.keys, record.tried[value].values, strict=True))}
    bounds, standing = record.bounds(value), record.standing(value)
    return {
        "values": dict(zip(record.keys, record.tried[value].values, strict=True)),
        **({} if bounds is None else bounds._asdict()),
        "heldout_losses": list(standing.losses),
        "after_epochs": record.after_epochs(value),
        "cost_epochs": record.epochs(value),
    }


def _rows_text(record: VaryRecord) -> str:
    """The content of ``vary.csv``."""
    columns = (*record.keys, "seed", "lr", "iteration", "epoch", "heldout_loss", record.metric.name)
    return csv_text([columns, *_rows(record)])


def _rows(record: VaryRecord) -> Iterator[tuple[Any, ...]]:
    for value, probe in record.readings:
        tried = record.tried[value]
        epoch = probe.iterations / tried.iterations_per_epoch
        yield (*tried.values, probe.seed, probe.lr, probe.iterations, epoch, probe.loss, probe.metric)


def _reading(reading: Reading) -> dict[str, Any]:
    """In plain types: a loss that is not finite is None."""
    probe = asdict(reading.probe)
    return {"value": reading.value} | probe | {"loss": probe["loss"] if math.isfinite(probe["loss"]) else None}


def _to_reading(values: Mapping[str, Any]) -> Reading:
    probe = {name: each for name, each in values.items() if name != "value"}
    return Reading(values["value"], Probe(**probe | {"loss": math.inf if probe["loss"] is None else probe["loss"]}))


def _to_tried(values: Mapping[str, Any]) -> Tried:
    return Tried(**{**values, "values": tuple(values["values"]), "place": tuple(values["place"])})


VARIED = ResultFiles(
    what="a range test with --vary",
    writer="clrtool rangetest --vary",
    another="another config, or another --vary or --budget",
    rows="vary.csv",
    stem="vary",
    to_rows=_rows_text,
    to_json=varied_to_json,
    made=_made,
)
