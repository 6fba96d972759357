"""What people read of a machine and of the versions on it, as a rich table. Nothing is printed here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from clrtool.report.text.grid import grid
from clrtool.words import count

Row = tuple[str, str]


def doctor_table(report: Mapping[str, Any]) -> Table:
    """The report of ``clrtool doctor``: versions, machine, environment, the config if one was given, and the faults."""
    faults = report["machine"]["faults"]
    found = count(len(faults), "fault") if faults else "this machine can run a range test"
    return grid(_rows(report), f"doctor: {found}")


def _rows(report: Mapping[str, Any]) -> Iterator[Row]:
    yield from report["versions"].items()
    yield from _machine_rows(report["machine"])
    yield from map(_tested, report["self_tests"])
    yield from report["environment"].items()
    if config := report.get("config"):
        yield "config", f"{config['source']} is valid"
        yield "sha256", config["sha256"]
        for field, factory in config["factories"].items():
            yield field, f"{factory} is code, which was not imported"
        for pattern in config["allow_import"]:
            yield "to run it", f"--allow-import '{pattern}' if you trust it"
    yield from (("note", note) for note in report["machine"]["notes"])
    yield from (("fault", fault) for fault in report["machine"]["faults"])


def _machine_rows(machine: Mapping[str, Any]) -> Iterator[Row]:
    yield "system", machine["system"]
    for index, gpu in enumerate(machine["gpus"]):
        sizes = f"{_size(gpu['memory_bytes'])}, {_size(gpu['free_bytes'])} of it free"
        yield f"cuda:{index}", f"{gpu['name']} with {sizes}; CUDA {machine['cuda']}"
        fast = " and ".join(gpu["fast"]) or "none but fp32"
        yield "", f"precision that is fast there: {fast}"
    threads = "" if machine["threads"] is None else f"; torch uses {count(machine['threads'], 'thread')}"
    yield "cpu", f"{count(machine['cores'], 'core')}{threads}"
    yield "memory", f"{_size(machine['memory_bytes'])}, {_size(machine['available_bytes'])} of it available"
    yield "disk", f"{_size(machine['disk_free_bytes'])} free in the current folder"
    yield "shared memory", f"{_size(machine['shm_bytes'])} for the workers of a DataLoader"


def _tested(test: Mapping[str, Any]) -> Row:
    """One device, and what a range test of the digits came to there."""
    name = f"self-test {test['device']}"
    if test["fault"]:
        return name, f"failed after {test['seconds']:.1f} s: {test['fault']}"
    done = f"{count(test['iterations'], 'iteration')}, accuracy {test['accuracy']:.2f}"
    if not test["engine"]:
        return name, f"not finished after {test['seconds']:.1f} s, because the device is busy or slow: {done}"
    rate = f"{test['per_second']:,.0f} a second"
    return name, f"passed in {test['seconds']:.1f} s: {done}, {rate}, steps {test['engine']}"


def _size(size: int | None) -> str:
    """A size for people.

    >>> _size(5 * 2**29), _size(2**26), _size(None)
    ('2.5 GiB', '0.062 GiB', 'unknown')
    """
    return "unknown" if size is None else f"{size / 2**30:.{1 if size >= 2**30 else 3}f} GiB"
