"""A range test as event files of TensorBoard: curves, plan, pictures, verdict. Imports no torch and no TensorFlow.

TensorBoard has steps for its horizontal axis, and no other. What was measured lies at its iteration, with the learning
rate of that iteration beside it as a curve of its own; the metric against the learning rate is the picture. Scalars at
steps that stand for learning rates would be numbers that nobody can read back, and a layout of custom scalars has steps
for its axis too.

Its own ``EventFileWriter`` puts host, process and time into the name of a file and loads TensorFlow where there is
one, so that only the records are written by TensorBoard. All times are 0, and the same run gives the same bytes.
"""

from __future__ import annotations

import html
import io
import math
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clrtool.config.components import Component
from clrtool.config.file import load_config
from clrtool.config.schema import RangeTestConfig
from clrtool.core.planning.plan import Plan
from clrtool.core.reading.curve import Curve
from clrtool.core.results.record import RunRecord
from clrtool.errors import ConfigError, MachineError
from clrtool.files import sweep_orphans, write_whole
from clrtool.report.records.run import read_run
from clrtool.report.text.facts import sampled
from clrtool.report.text.grid import spoken
from clrtool.report.text.tables import result_table
from clrtool.words import printable

try:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from tensorboard.plugins.text.metadata import create_summary_metadata
    from tensorboard.summary.writer.record_writer import RecordWriter
except ImportError as error:
    raise ConfigError("TensorBoard is not installed: pip install 'clrtool[tensorboard]'") from error

# TensorBoard keeps 1000 points of a scalar and draws lots for the rest; these and the corners are fewer in most plans.
POINTS = 501
OF_THE_PLAN = (
    "policy", "base_lr", "max_lr", "stepsize", "stepsize_epochs", "num_cycles", "warmup", "iterations_per_epoch",
    "iterations", "epochs",
)  # fmt: skip


def write_events(run: Path, logdir: Path) -> Path:
    """Write a finished run into a folder of TensorBoard's, in place of what was written of its config before.

    A TensorBoard that is open already shows what it has read until it is started again. With NAME, the name of the
    run folder, its runs are:

    - ``NAME/seed S``: ``sweep/...``, the columns of ``curve.csv`` at their iterations;
    - ``NAME``: ``plan/lr``, the learning rate that is planned, the pictures, and the result as a text;
    - ``NAME/result``: plan, config and verdict as hyperparameters, and as metrics the best of ``curve.csv``, a mean
      over the seeds. It is a run of its own because TensorBoard takes each scalar of its run for a metric.

    Args:
        run: the run folder.
        logdir: what ``tensorboard --logdir`` is given; made where it is not there.

    Returns:
        The folder ``logdir/NAME``.

    Raises:
        ConfigError: the run is not finished, or a folder holds something else, be it a run of another config.
        MachineError: a folder or a file cannot be written.
    """
    record, name = read_run(run), printable(run.resolve().name).replace("\n", " ") or "run"
    folder = logdir / name
    file = f"events.out.tfevents.0.clrtool-{record.config_sha256[:12]}"
    parts = {f"seed {curve.seed}": _curve(curve, record.sweep.metric.name) for curve in record.sweep.curves}
    parts["result"] = _result(record, _config(run, record), name)
    _check_free(folder, file, parts)
    for part in parts:
        _check_free(folder / part, file)
    parts["."] = _overview(record, name)
    contents = {part: _records(summaries) for part, summaries in parts.items()}
    for part, content in contents.items():
        write_whole(folder / part / file, content)
        sweep_orphans(folder / part)  # TensorBoard would read them
    return folder


def _check_free(folder: Path, file: str, parts: Iterable[str] = ()) -> None:
    """Refuse a folder with anything but the file of this run, the rest of one whose writer was killed, and parts."""
    try:
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise MachineError(f"{folder}: cannot be read: {error.strerror}") from error
    if others := [name for name in names if name not in (file, *parts) and not name.startswith(f".{file}.")]:
        raise ConfigError(
            f"{folder} holds {others[0]!r}, which is not of this run: give another folder to --tensorboard, or move "
            "this one away"
        )


def _config(run: Path, record: RunRecord) -> RangeTestConfig | None:
    """The config of a run, where it is still the one that was measured."""
    file = run / "config.yaml"
    config = load_config(file) if file.is_file() else None
    return config if config is not None and config.sha256() == record.config_sha256 else None


def _curve(curve: Curve, metric: str) -> Iterator[tuple[int, Any]]:
    for point in curve.points():
        values = {metric: point.metric} | {
            column: getattr(point, column) for column in ("heldout_loss", "train_loss", "lr")
        }
        yield point.iteration, _scalars({f"sweep/{column}": value for column, value in values.items()})


def _overview(record: RunRecord, name: str) -> Iterator[tuple[int, Any]]:
    if record.plan is not None:
        yield from _plan(record.plan)
    yield 0, Summary(value=_pictures(record, name))
    paragraphs = map(_markdown, spoken(result_table(record, name, verbose=True)).splitlines())
    text = TensorProto(dtype=DT_STRING, string_val=["\n\n".join(paragraphs).encode()])
    yield 0, Summary(value=[Summary.Value(tag="result", metadata=create_summary_metadata("", ""), tensor=text)])


def _plan(plan: Plan) -> Iterator[tuple[int, Any]]:
    where = sampled(plan.schedule, plan.last, POINTS)
    for step, lr in zip(where.tolist(), plan.lr(where).tolist(), strict=True):
        yield step, _scalars({"plan/lr": lr})


def _pictures(record: RunRecord, name: str) -> list[Any]:
    from clrtool.report.plots import drawn, run_figures  # noqa: PLC0415 (matplotlib takes longer than all the rest)

    return [_picture(tag, drawn(figure, ".png")) for tag, figure in run_figures(record, name).items()]


def _picture(tag: str, content: bytes) -> Any:
    width, height = struct.unpack(">II", content[16:24])  # where a PNG says how large it is
    image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=content)
    return Summary.Value(tag=tag, image=image)


def _markdown(line: str) -> str:
    """A line that TensorBoard shows as it is."""
    return re.sub(r"([\\`*_{}\[\]()#+.!|-])", r"\\\1", html.escape(line, quote=False))


def _result(record: RunRecord, config: RangeTestConfig | None, name: str) -> Iterator[tuple[int, Any]]:
    hparams = {key: printable(value) if isinstance(value, str) else value for key, value in _hparams(record, config)}
    # named, for TensorBoard takes runs of the same hyperparameters for repetitions of one
    summary = hparams_pb(hparams, trial_id=name, start_time_secs=0)
    data = summary.value[0].metadata.plugin_data
    # it was written in an order that differs from process to process
    data.content = HParamsPluginData.FromString(data.content).SerializeToString(deterministic=True)
    yield 0, summary
    curves, metric = record.sweep.curves, record.sweep.metric
    best = {"heldout_loss": _best(curves, "heldout_loss", np.min)}
    best |= {metric.name: _best(curves, "metric", np.max if metric.higher_is_better else np.min)}
    yield 0, _scalars({f"best/{column}": value for column, value in best.items()})


def _hparams(record: RunRecord, config: RangeTestConfig | None) -> Iterator[tuple[str, Any]]:
    """What is known of plan, sweep and config. The verdict is a word, which no metric can be."""
    yield "verdict", record.bounds.verdict.word
    yield "metric", record.sweep.metric.name
    yield "seeds", len(record.sweep.curves)
    if record.plan is not None:
        values = ((name, getattr(record.plan, name)) for name in OF_THE_PLAN)
        yield from ((name, value) for name, value in values if value is not None)
    if config is not None:
        yield "batch_size", config.data.batch_size
        parts: Mapping[str, Component] = {"model": config.model, "data": config.data, **config.optimizers()}
        yield from ((key, part.name or part.factory) for key, part in parts.items())


def _best(curves: Iterable[Curve], column: str, best_of: Callable[[Any], Any]) -> float:
    """The mean over the seeds of the best of each; NaN where a seed measured nothing."""
    found = [getattr(curve, column)[curve.finite] for curve in curves]
    return float(np.mean([best_of(values) for values in found])) if all(map(len, found)) else math.nan


def _scalars(values: Mapping[str, float]) -> Any:
    """Scalars by their tags, without those that are NaN: they were not measured."""
    known = {tag: value for tag, value in values.items() if not math.isnan(value)}
    return Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in known.items()])


def _records(summaries: Iterable[tuple[int, Any]]) -> bytes:
    """The content of an event file, from summaries with their steps."""
    content = io.BytesIO()
    writer = RecordWriter(content)
    for event in (
        Event(wall_time=0, file_version="brain.Event:2"),
        *(Event(wall_time=0, step=step, summary=summary) for step, summary in summaries),
    ):
        writer.write(event.SerializeToString())
    return content.getvalue()
