"""What a race measured, as it is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from clrtool.core.racing.probes import Entry, Probe, cost


@dataclass(frozen=True)
class Race:
    """A race that is over.

    Args:
        entry: where it started, what it might cost, and from where gains count.
        probes: what was read, in its order.
    """

    entry: Entry
    probes: tuple[Probe, ...]

    @property
    def iterations(self) -> int:
        """Optimizer steps of all runs."""
        return cost(self.probes)

    def to_dict(self) -> dict[str, Any]:
        """In plain types, for JSON: a loss that is not finite is None, and ``still`` is left out without batch norm."""
        entry = {name: _finite(value) for name, value in asdict(self.entry).items()}
        if entry["still"] is None:
            del entry["still"]
        return {
            **entry,
            "iterations": self.iterations,
            "probes": [asdict(probe) | {"lr": probe.lr, "loss": _finite(probe.loss)} for probe in self.probes],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Race:
        """What :meth:`to_dict` gave. Raises KeyError, TypeError or ValueError for anything else."""
        known = {name: values[name] for name in Entry.__annotations__ if name in values}
        losses = {name for name in ("constant", "first", "still") if name in known}
        known |= {name: math.inf if known[name] is None else float(known[name]) for name in losses}
        probes = []
        for each in values["probes"]:
            mine = {name: each[name] for name in Probe.__annotations__ if name in each}
            probes.append(Probe(**(mine | {"loss": math.inf if mine["loss"] is None else float(mine["loss"])})))
        return cls(Entry(**known), tuple(probes))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
