"""``clrtool rangetest --vary``: a config and values of a key or two -> which of them to take, with which rate."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import typer

from clrtool.cli.console import readable_or_not, show
from clrtool.cli.run.attempts import Attempts
from clrtool.cli.run.folder import ResultFolder
from clrtool.cli.run.seed_share import SWEEP
from clrtool.cli.run.spec import RunSpec
from clrtool.cli.run.torchrun import check_alone
from clrtool.core.results.varied import BUDGET, MOST_KEYS, MOST_PAIRS, SEEDS
from clrtool.errors import ConfigError
from clrtool.report.text.progress import say
from clrtool.words import argument, shell_command, shown

if TYPE_CHECKING:
    from clrtool.config.schema import RangeTestConfig
    from clrtool.core.results.varied import VaryRecord
    from clrtool.engine.rangetest.vary import Variation
    from clrtool.engine.resume.journal import Journal

INCONCLUSIVE = 3
# What --vary-groups tries, as factors of the ratio that the config has.
AROUND = (0.25, 1, 4)
# Where it has no group with a ratio: factors by which the rate falls from block to block.
DECAYS = (1, 0.8, 0.6)
# Values of a key, each with a colour of its own.
MOST_VALUES = 8
# Keys that say how is measured, not what is trained; of others the losses cannot be compared.
REFUSED = {
    "seed": "is not what a training is made of; --seeds N asks for more of them",
    "sweep": "says how a range test is run",
    "plan": "says what is planned afterwards: clrtool compare trains with several plans",
    "metric": "says what is read, and values are compared by the held-out loss",
    "loss": "changes the loss itself, by which values are compared",
    "data.name": "changes the held-out set, on which values are compared",
    "data.factory": "changes the held-out set, on which values are compared",
    "data.heldout": "changes the held-out set, on which values are compared",
}


@dataclass(frozen=True)
class Axis:
    """A key with the texts of its values, as they stand on the command line, and what YAML makes of them."""

    key: str
    texts: tuple[str, ...]
    values: tuple[Any, ...]


@dataclass(frozen=True)
class VaryRequest:
    """What is asked for.

    Args:
        spec: of the config as it is.
        axes: the keys with their values.
        specs: for each pair of values, in the order of their product, the same with them in place.
        budget: as a share of the planned training.
    """

    spec: RunSpec
    axes: tuple[Axis, ...]
    specs: tuple[RunSpec, ...]
    budget: float

    @property
    def sha256(self) -> str:
        """Hash of all that the runs follow from, but for data and code."""
        from clrtool.report.records.record_file import sha256_of

        configs = [each.config.sha256() for each in self.specs]
        return sha256_of({"config": self.spec.config.sha256(), "values": configs, "budget": self.budget})

    @property
    def names(self) -> list[str]:
        """The pairs as they were typed."""
        return [", ".join(texts) for texts in product(*(axis.texts for axis in self.axes))]

    @property
    def first(self) -> int:
        """The pair that the config has; of a key that it leaves out, or has otherwise, the first value."""
        place = 0
        for axis in self.axes:
            place = place * len(axis.values) + (self._own(axis) or 0)
        return place

    def _own(self, axis: Axis) -> int | None:
        """Which value of a key the config has."""
        wanted = self.spec.config.sha256()
        found = (place for place, each in enumerate(_specs(self.spec, [axis])) if each.config.sha256() == wanted)
        return next(found, None)

    @property
    def seeds(self) -> range:
        config = self.spec.config
        return range(config.seed, config.seed + (SEEDS if config.sweep.seeds == "auto" else config.sweep.seeds))

    def variation(self, micro_batches: int | None = None) -> Variation:
        """Every pair with its workload."""
        from clrtool.engine.rangetest.pipeline import check_plan
        from clrtool.engine.rangetest.vary import Variant, Variation

        places = product(*(range(len(axis.values)) for axis in self.axes))
        variants = []
        for place, spec in zip(places, self.specs, strict=True):
            with spec.located():
                workload = spec.build(micro_batches=micro_batches)
                check_plan(workload, spec.config.plan)
            values = tuple(axis.values[at] for axis, at in zip(self.axes, place, strict=True))
            variants.append(Variant(values, place, workload))
        keys, has_own = tuple(axis.key for axis in self.axes), None not in map(self._own, self.axes)
        return Variation(keys, tuple(variants), self.first, has_own, self.seeds, self.budget)


def read_request(spec: RunSpec, words: Sequence[str], budget: float | None, *, groups: bool = False) -> VaryRequest:
    """What ``--vary`` and ``--vary-groups`` ask for. Raises ConfigError for keys or values that break a rule."""
    axes = tuple(map(_read_axis, [*words, *(_ratios(spec.config) if groups else ())]))
    if len(axes) > MOST_KEYS:
        raise ConfigError(f"--vary: at most {MOST_KEYS} keys, not {len(axes)}: vary the most important first")
    if len({axis.key for axis in axes}) < len(axes):
        raise ConfigError(f"--vary {axes[0].key}: is given twice; give all values in one: KEY=V1,V2,V3")
    pairs = math.prod(len(axis.values) for axis in axes)
    if pairs > MOST_PAIRS:
        raise ConfigError(f"--vary: {pairs} pairs are more than {MOST_PAIRS}: give fewer values")
    given = spec.config.sweep.budget if "budget" in spec.config.sweep.model_fields_set else BUDGET
    return VaryRequest(spec, axes, tuple(_specs(spec, axes)), given if budget is None else budget)


def _ratios(config: RangeTestConfig) -> list[str]:
    """Each ratio of the optimizer's groups with a quarter and four times of it; without any, decays by layer."""
    from clrtool.config.components import OptimizerConfig

    if isinstance(config.optimizer, OptimizerConfig):
        decay, groups = config.optimizer.layer_decay, enumerate(config.optimizer.groups)
        rated = {f"optimizer.groups.{place}": each for place, each in groups if "lr_ratio" in each.model_fields_set}
        if not rated:
            return [f"optimizer.layer_decay={','.join(f'{each:.6g}' for each in _decays(decay))}"]
        ratios = {f"{place}.lr_ratio": each.lr_ratio for place, each in rated.items()}
    else:
        parts = enumerate(config.optimizer[1:], 1)
        ratios = {f"optimizer.{place}.lr_ratio": each.lr_ratio for place, each in parts}
    if len(ratios) > MOST_KEYS:
        example = " ".join(f"--vary {key}={_around(ratios[key])}" for key in [*ratios][:MOST_KEYS])
        raise ConfigError(
            f"--vary-groups: {len(ratios)} ratios are more than the {MOST_KEYS} that can vary at once: give {example}"
        )
    return [f"{key}={_around(ratio)}" for key, ratio in ratios.items()]


def _around(ratio: float) -> str:
    return ",".join(f"{factor * ratio:.6g}" for factor in AROUND)


def _decays(decay: float) -> tuple[float, ...]:
    """None, that of the config and its square, which falls as far in half as many blocks."""
    return (1, decay, decay**2) if decay < 1 else DECAYS


def _read_axis(word: str) -> Axis:
    """``KEY=V1,V2``, each value typed as YAML."""
    from clrtool.config.strict_yaml import read_yaml

    key, equals, text = word.partition("=")
    texts = _split(text)
    if not equals or not key or len(texts) < 2:
        raise ConfigError(f"--vary {shown(word)}: must be KEY=V1,V2, such as optimizer.args.weight_decay=0,1e-4,1e-3")
    if len(texts) > MOST_VALUES:
        raise ConfigError(f"--vary {key}: at most {MOST_VALUES} values, not {len(texts)}")
    for refused, why in REFUSED.items():
        if key == refused or key.startswith(f"{refused}."):
            raise ConfigError(f"--vary {key}: {refused} {why}")
    values = []
    for each in texts:
        document = read_yaml(each, f"--vary {shown(word)}", at=tuple(key.split(".")))
        if document.faults:
            raise ConfigError(*(f"{place}: {what}" for place, what in document.faults))
        values.append(document.value)
    if any(value in values[:place] for place, value in enumerate(values)):
        raise ConfigError(f"--vary {shown(word)}: gives a value twice")
    return Axis(key, texts, tuple(values))


def _split(text: str) -> tuple[str, ...]:
    """Values at the commas that stand in no bracket.

    >>> _split("0,1e-4"), _split("[0.9, 0.99],[0.8, 0.9]")
    (('0', '1e-4'), ('[0.9, 0.99]', '[0.8, 0.9]'))
    """
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return tuple(part.strip() for part in parts)


def _specs(spec: RunSpec, axes: Sequence[Axis]) -> Iterator[RunSpec]:
    """The config with each pair of values."""
    from clrtool.config.file import load_config

    for texts in product(*(axis.texts for axis in axes)):
        words = (f"{axis.key}={text}" for axis, text in zip(axes, texts, strict=True))
        overrides = (*spec.overrides, *words)
        yield replace(spec, overrides=overrides, config=load_config(spec.path, overrides))


def vary(spec: RunSpec, signals: Any, params: Mapping[str, Any]) -> None:
    """Race the values, or tell what that would take."""
    from clrtool.report.records.vary_file import VARIED

    check_alone("rangetest --vary")
    elsewhere = {"--jobs": params["jobs"] > 1, "--ray": params["ray"], "--ray-gpus": params["ray_gpus"],
                 "--seed-shard": params["seed_shard"], "--write": params["write"],
                 "--check": params["check"]}  # fmt: skip
    if used := [name for name, value in elsewhere.items() if value]:
        raise ConfigError(f"{', '.join(used)}: not with --vary, whose values race in one process")
    request = read_request(spec, params["vary"] or (), params["budget"], groups=params["vary_groups"])
    folder = ResultFolder(spec, signals, VARIED)
    if params["dry"]:
        _dry_run(folder, request)
        return
    record = _measured(folder, request)
    with readable_or_not():
        _show(record, spec)
    if record.chosen is None:
        raise typer.Exit(INCONCLUSIVE)


def _measured(folder: ResultFolder[VaryRecord], request: VaryRequest) -> VaryRecord:
    """The record as it was finished before, or as it is measured now; what was trained before is not trained again."""
    if (finished := folder.finished(request.sha256)) is not None:
        return finished
    with folder.held():
        record = folder.open(request.sha256)
        if record is None:
            record = _trained(folder, request)
            folder.write(record)
        folder.finish(record)
        return record


def _trained(folder: ResultFolder[VaryRecord], request: VaryRequest) -> VaryRecord:
    folder.say("loading torch and the data")
    from clrtool.cli.run.observer import VaryObserver
    from clrtool.engine.rangetest.vary import run_variation

    spec = folder.spec
    for attempt in Attempts(folder, SWEEP):
        with attempt as tried:
            variation = request.variation(tried.micro_batches)
            with folder.signals.deferred():
                journal = _journal(folder, request, variation)
                folder.files.begin(folder.path, spec.config)
                record = run_variation(variation, VaryObserver(folder, request.names), journal)
            return replace(record, request_sha256=request.sha256, config_sha256=spec.config.sha256())
    raise AssertionError("attempts end with a record or an error")


def _journal(folder: ResultFolder[VaryRecord], request: VaryRequest, variation: Variation) -> Journal:
    """Where the runs are kept: of this request, and of the data and the code that every value has now."""
    from clrtool.report.records.record_file import sha256_of

    inputs = [[each.workload.data_sha256, dict(each.workload.sources)] for each in variation.variants]
    sha256 = sha256_of({"request": request.sha256, "inputs": inputs})
    return folder.opened_journal(variation.base, SWEEP, sha256, what=folder.files.another)


def _dry_run(folder: ResultFolder[VaryRecord], request: VaryRequest) -> None:
    """What a race over these values would take, from a few steps of the first."""
    folder.say("loading torch and the data")
    from clrtool.report.text.vary_table import vary_estimate_table

    spec = folder.spec
    with contextlib.redirect_stdout(sys.stderr), spec.located():
        from clrtool.engine.rangetest.vary import estimate_variation
        from clrtool.engine.runtime.device import computing_with

        with computing_with(spec.threads):
            found = estimate_variation(request.variation(), spec.config, spec.folder)
    if spec.display.as_json:
        typer.echo(json.dumps({"status": "dry run", **found._asdict(), "folder": str(spec.folder)}, indent=2))
        return
    show(vary_estimate_table(found, spec.folder.resolve().name), plain=spec.display.plain)


def _show(record: VaryRecord, spec: RunSpec) -> None:
    """The result on stdout, and on stderr where it lies and what to type next."""
    from clrtool.report.records.vary_file import VARIED
    from clrtool.report.text.vary_table import vary_table

    if spec.display.as_json:
        typer.echo(VARIED.to_json(record), nl=False)
        return
    show(vary_table(record, spec.folder.resolve().name), plain=spec.display.plain)
    say(f"in {spec.folder}/: {', '.join(VARIED.names[1:4])}", quiet=spec.display.quiet)
    if record.chosen is not None:
        say(f"next: {shell_command('clrtool', 'plan', argument(spec.folder))}", quiet=spec.display.quiet)
