"""What people read of ``--dry-run``, as a rich table. Nothing is printed here."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.table import Table

from clrtool.core.planning.sweep_size import SHORTEST
from clrtool.core.results.estimate import Estimate
from clrtool.report.text.grid import grid
from clrtool.words import count, duration

Words = Callable[[str], str]


def estimate_table(found: Estimate, title: str, folder: str | None = None, words: Words = str) -> Table:
    """What a range test would take at the most.

    Args:
        folder: the run folder, and what would become of it; None where there is none.
        words: says a sentence in the words of who reads it.
    """
    rows = [*_rows(found), *(() if folder is None else _disk(found, folder))]
    rows += (("warning", warning) for warning in found.warnings)
    told = [(name, words(text)) for name, text in rows]
    return grid(told, f"{title}: what a range test will take; nothing was written")


def _rows(found: Estimate) -> Iterator[tuple[str, str]]:
    frozen = "" if found.trained == found.parameters else f", {found.trained:,} of them train"
    yield "model", f"{count(found.parameters, 'parameter')}{frozen}, on {found.device}"
    batches = f"batches of {found.batch_size:,}, {count(found.iterations_per_epoch, 'iteration')} per epoch"
    dropped = f", {found.dropped:,} left out (data.drop_last=false keeps them)" if found.dropped else ""
    heldout = f"{found.heldout_samples:,}" if found.heldout_samples else "an unknown number"
    yield "data", f"{found.samples:,} samples in {batches}{dropped}; {heldout} held out"
    yield "sweep", _ends(found)
    shared = f" in {found.jobs} processes" if found.jobs > 1 else ""
    yield "", f"{count(found.seeds, 'seed')}{shared} x {_most(found.sweep, found.evaluations)}"
    if found.spare >= SHORTEST:
        yield "", f"up to {count(found.spare, 'iteration')} more for another seed, or to start again from a lower rate"
    if found.race:
        yield "race", f"short runs, {_most(found.race, found.race_evaluations)} in total"
    yield "total", f"at most {count(found.iterations, 'iteration')}, {found.epochs:.3g} epochs"
    timed = f"{duration(found.iteration_seconds)} per iteration, {duration(found.evaluation_seconds)} per evaluation"
    yield "time", f"at most {duration(found.seconds)}: {timed}, measured over {count(found.timed, 'iteration')}"
    if found.ranks:
        yield "ranks", _ranks(found)
    together = f", up to {found.at_once} times that where all seeds train at once" if found.at_once > 1 else ""
    processes = max(found.jobs, len(found.ranks))
    each = f"; each of {processes} processes takes as much" if processes > 1 else ""
    held = f", plus up to {size(found.held_bytes)} for paused runs of the race" if found.held_bytes else ""
    peak = f"{size(found.peak_bytes)} of {size(found.memory_bytes)} at the peak"
    yield "memory", f"{peak}{together}{held}{each}"


def _ranks(found: Estimate) -> str:
    """From the fastest rank to the slowest, and from the smallest to the largest; their shares may differ."""
    seconds, peaks, reduced, gathered = (
        sorted(getattr(each, name) for each in found.ranks)
        for name in ("iteration_seconds", "peak_bytes", "reduced_bytes", "gathered_bytes")
    )
    times, sizes = (_range(*map(word, (each[0], each[-1]))) for each, word in ((seconds, duration), (peaks, size)))
    weights = f" and gathers {size(gathered[-1])}, mostly weights" if gathered[-1] else ""
    network = f"over the network each iteration sums {size(reduced[-1])}, mostly gradients{weights}"
    return f"{len(found.ranks)}: {times} per iteration, {sizes} at the peak; {network}"


def _range(least: str, most: str) -> str:
    return least if least == most else f"{least} to {most}"


def _disk(found: Estimate, folder: str) -> Iterator[tuple[str, str]]:
    short = "; too little: another disk with -o DIR" if found.disk_bytes > found.free_bytes else ""
    yield "disk", f"{size(found.disk_bytes)} while it runs, {size(found.free_bytes)} free{short}"
    yield "folder", folder


def _ends(found: Estimate) -> str:
    """Where the learning rate goes, as far as that is known before."""
    ends = {"start_lr": found.start_lr, "end_lr": found.end_lr}
    scouted = " and ".join(name for name, lr in ends.items() if lr is None)
    given = "".join(f", {name} is {lr:.3g}" for name, lr in ends.items() if lr is not None)
    if not scouted:
        return f"from {found.start_lr:.3g} to {found.end_lr:.3g}"
    return f"a scout of at most {count(found.scout, 'iteration')} finds {scouted}{given}"


def _most(iterations: int, evaluations: int) -> str:
    return f"{count(iterations, 'iteration')} and {count(evaluations, 'evaluation')}"


def size(size: int) -> str:
    """A number of bytes for people.

    >>> size(3 * 2**20), size(5 * 2**29), size(2**14)
    ('3.0 MiB', '2.5 GiB', '16.0 KiB')
    """
    if size >= 2**30:
        return f"{size / 2**30:.1f} GiB"
    return f"{size / 2**20:.1f} MiB" if size > 2**20 / 10 else f"{size / 2**10:.1f} KiB"
