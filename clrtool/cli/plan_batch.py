"""``clrtool plan``: the bounds of a race over values, and bounds for another batch size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from clrtool.errors import ConfigError
from clrtool.report.records.vary_file import VARIED
from clrtool.report.text.progress import say
from clrtool.report.text.vary_table import STEEP
from clrtool.words import argument, shell_command

if TYPE_CHECKING:
    from clrtool.config.schema import RangeTestConfig
    from clrtool.core.results.batch_scaling import BatchScaling
    from clrtool.core.results.varied import VaryRecord


def chosen_numbers(place: Path) -> dict[str, Any]:
    """What a plan is made of, of the value that a race over values has chosen. Raises ConfigError if there is none."""
    record = VARIED.read(place)
    bounds = None if record.chosen is None else record.bounds(record.chosen)
    if record.chosen is None or bounds is None:
        raise ConfigError(f"{place}: no value was chosen: {record.reason}")
    say(f"{place}: the bounds of {record.named(record.chosen)}")
    tried = record.tried[record.chosen]
    epochs = tried.training / tried.iterations_per_epoch
    return {"base_lr": bounds.base_lr, "max_lr": bounds.max_lr, "iterations_per_epoch": tried.iterations_per_epoch,
            "epochs": epochs}  # fmt: skip


def rescaled_numbers(place: Path, batch_size: int, known: dict[str, Any]) -> dict[str, Any]:
    """The same for another batch size, by the growth of the best rate that was measured.

    Args:
        place: of a race over batch sizes, or of a range test, beside which there is one of its name with -vary.
        known: what a plan from there is made of.

    Raises:
        ConfigError: no batch sizes were measured, or an epoch has no such batch.
    """
    record, scaling = _measured(place, known["iterations_per_epoch"])
    is_varied = (place / VARIED.result).is_file()
    size = record.tried[record.first].batch_size if is_varied else _config(place).data.batch_size
    factor = scaling.factor(size, batch_size)
    samples = max(each.batch_size * each.iterations_per_epoch for each in record.tried)
    if batch_size > samples:
        raise ConfigError(f"--batch-size {batch_size}: an epoch has {samples:,} samples, and no such batch")
    say(f"max_lr for batches of {batch_size:,}: {known['max_lr']:.3g} x {factor:.3g}, with the exponent {scaling.told}")
    if scaling.is_steep:
        say(f"note: {STEEP[0].lower()}{STEEP[1:-1]}")
    if not scaling.is_measured(batch_size):
        first, last = scaling.batch_sizes[0], scaling.batch_sizes[-1]
        say(f"note: {batch_size:,} is extrapolated: batches of {first:,} to {last:,} were measured")
    if scaling.critical is not None and batch_size > scaling.critical:
        say(f"note: the best rate stops growing at batches of about {scaling.critical:,}")
    rates = {name: known[name] * factor for name in ("base_lr", "max_lr")}
    return known | rates | {"iterations_per_epoch": samples // batch_size}


def _measured(place: Path, batches: int) -> tuple[VaryRecord, BatchScaling]:
    """The race over batch sizes that belongs to a folder, and the growth that it shows."""
    found = [each for each in (place, place.with_name(f"{place.name}-vary")) if (each / VARIED.result).is_file()]
    for each in found:
        record = VARIED.read(each)
        if (scaling := record.batch_scaling) is not None:
            return record, scaling
    raise ConfigError(
        f"--batch-size: {place} has no rates of several batch sizes to go by; {_command(place, batches)} measures them"
    )


def _command(place: Path, batches: int) -> str:
    """What measures several batch sizes: none larger than the samples in the batches of an epoch."""
    config = _config(place)
    size = config.data.batch_size
    sizes = sorted({each for each in (size // 2, size, 2 * size, 4 * size) if 1 <= each <= size * batches})
    vary = ["--vary", f"data.batch_size={','.join(map(str, sizes))}",
            "-o", argument(place.with_name(f"{place.name.removesuffix('-vary')}-vary"))]  # fmt: skip
    if config.factories():  # code that lies elsewhere, and that nobody allows by pasting what a folder says
        return f"the command that measured it, with {shell_command(*vary)}"
    return shell_command("clrtool", "rangetest", argument(place / "config.yaml"), *vary)


def _config(place: Path) -> RangeTestConfig:
    from clrtool.config.file import load_config

    return load_config(place / "config.yaml")
