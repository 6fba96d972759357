"""Going on with a test that was interrupted: from its checkpoint to its journal, if they are of the same test."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clrtool.engine.resume.checkpoint import CheckpointFolder
from clrtool.engine.resume.journal import FORMAT, Assignment, Journal, RemoteResults, Requests
from clrtool.engine.resume.shape import load_checkpoint
from clrtool.engine.resume.spread import SpreadCheckpoints, shared
from clrtool.engine.runtime.device import environment
from clrtool.engine.training.workload import Workload
from clrtool.errors import ConfigError
from clrtool.words import count

_WAYS_OUT = "to resume, use --fresh to start over, or -o for another folder"
# How each change is undone; others: by going back.
_UNDONE = {"sources": "Restore them", "data_sha256": "Restore it", "config_sha256": "Restore it"}


def open_journal(
    folder: CheckpointFolder,
    workload: Workload,
    config_sha256: str,
    requests: Requests,
    every: float,
    what: str = "another config",
    remote: RemoteResults | None = None,
    assignment: Assignment | None = None,
) -> tuple[Journal, str]:
    """The journal of a range test, those of the checkpoint if the folder holds one; and what to say of that.

    Args:
        requests: what signals ask for.
        every: seconds between two checkpoints.
        what: another hash stands for, in words.
        remote, assignment: what other processes have measured, and which seeds are trained here.

    Raises:
        ConfigError: the checkpoint is of another run than this one would be.
    """
    about = about_test(workload, config_sha256)
    if remote is not None and remote.environment is not None:  # what was measured, and nothing here may be
        about |= {"environment": dict(remote.environment), "device": remote.device or about["device"]}
    values, parts, text = look_back(folder, about, what)
    ranks = workload.ranks
    store = folder if ranks.world == 1 else SpreadCheckpoints(ranks, folder, shares=_shares(workload))
    saved = shared(ranks, values, parts)
    return Journal(store, requests, every, about, saved, ranks=ranks, remote=remote, assignment=assignment), text


def look_back(
    folder: CheckpointFolder, about: Mapping[str, Any], what: str = "another config"
) -> tuple[dict[str, Any] | None, Path, str]:
    """What a checkpoint holds, if there is one, the folder of its parts, and what to say of it; no other rank is asked.

    Args:
        about: of :func:`about_test`.

    Raises:
        ConfigError: it is of another run.
    """
    values, damaged, parts = load_checkpoint(folder)
    said = [f"{file.name.partition('-')[0]} is damaged" for file in damaged]
    if values is None:
        said += ["starting over"] if damaged else []
    else:
        _check(values, about, folder.folder.parent, what)
        values["warnings"] = (
            *values["warnings"],
            *moved(values["environment"], about["environment"], "Interrupted and resumed"),
        )
        said += [_resumed(values)]
    return values, parts, f"{folder.folder}: {'; '.join(said)}" if said else ""


def about_test(workload: Workload, config_sha256: str) -> dict[str, Any]:
    """What a checkpoint belongs to, and where it was made."""
    return {
        "format": FORMAT,
        "config_sha256": config_sha256,
        "data_sha256": workload.data_sha256,
        "sources": dict(workload.sources),
        "deterministic": workload.deterministic,
        "device": workload.device.type,
        "micro_batches": workload.training.micro_batches,
        "environment": environment(workload.device) | workload.ranks.facts,
        **({"ranks": workload.ranks.world, "ranks_matter": workload.ranks.matters} if workload.ranks.world > 1 else {}),
    }


def follow_journal(workload: Workload, requests: Requests) -> Journal:
    """The journal of a range test on every rank but the first, as that has found them."""
    ranks = workload.ranks
    store = SpreadCheckpoints(ranks, shares=_shares(workload))
    return Journal(store, requests, math.inf, saved=shared(ranks, None), ranks=ranks)


def _shares(workload: Workload) -> bool:
    return workload.training.shard == "auto"


def saved_micro_batches(folder: CheckpointFolder) -> int | None:
    """The micro-batches that an interrupted test had come to where memory was short; None if there is no checkpoint."""
    values = load_checkpoint(folder).values
    return None if values is None else int(values["micro_batches"])


def _check(saved: Mapping[str, Any], about: Mapping[str, Any], run: Path, what: str) -> None:
    """Raise ConfigError if a checkpoint is of another run."""
    for name, difference in differences(saved, about, what).items():
        raise ConfigError(f"{run} {difference}. {_UNDONE.get(name, 'Go back to that')} {_WAYS_OUT}")


def differences(saved: Mapping[str, Any], about: Mapping[str, Any], what: str = "another config") -> dict[str, str]:
    """What makes a checkpoint one of another test, of all that ``about`` names, each as the end of a sentence."""
    switch = "without" if about.get("deterministic") else "with"
    told = {
        "format": "holds a checkpoint of another version of clrtool",
        "config_sha256": f"was started with {what}",
        "data_sha256": "was started with different data",
        "sources": f"was started with different code or weights ({_others(saved, about)} changed)",
        "deterministic": f"was started {switch} --deterministic",
        "device": f"was started on {saved.get('device')}, and this is {about.get('device')}",
    }
    found = {name: text for name, text in told.items() if name in about and saved.get(name) != about[name]}
    before, ranks = saved.get("ranks", 1), about.get("ranks", 1)
    if before != ranks and (saved.get("ranks_matter") or about.get("ranks_matter")):
        found["ranks"] = (
            f"was started with {count(before, 'rank')}, and there {'are' if ranks > 1 else 'is'} {ranks} now; with "
            "batch norm or a model that draws random numbers, that is a different test"
        )
    return found


def _others(saved: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """The names of the sources that have changed."""
    before, now = saved.get("sources") or {}, about.get("sources") or {}
    return ", ".join(name for name in sorted({*before, *now}) if before.get(name) != now.get(name))


def moved(before: Mapping[str, Any], now: Mapping[str, Any], what: str) -> list[str]:
    """What to say of a test of which something happened in another environment."""
    before, now = ({"ranks": 1, **each} for each in (before, now))
    changed = [f"{name} was {before.get(name)} and is {now[name]}" for name in now if before.get(name) != now[name]]
    text = f"{what} where {'; '.join(changed)}: results are equal up to rounding; --fresh measures all of it again."
    return [text] if changed else []


def _resumed(values: Mapping[str, Any]) -> str:
    running, finished = values["running"], count(len(values["finished"]), "segment")
    if not running:
        return f"resumed with {finished} finished"
    name, iteration = running["name"].partition(" from ")[0], running["start"] + max(map(len, running["losses"]))
    return f"resumed with {finished} finished; {name} goes on after iteration {iteration:,}"
