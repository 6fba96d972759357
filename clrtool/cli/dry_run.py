"""``clrtool rangetest --dry-run``: what a range test would take, without a file."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import typer

from clrtool.cli.console import say, show
from clrtool.cli.measure import SWEEP, Job
from clrtool.cli.ranks import check_alone
from clrtool.errors import ConfigError


def dry_run(job: Job, path: Path, wishes: Sequence[str], *, verify: bool, as_json: bool) -> None:
    """Build the problem, time a few steps, and tell what the whole would take.

    Args:
        path, wishes: the config and the overrides, which an error names.
        verify: whether ``--verify`` was asked for.
    """
    check_alone("rangetest --dry-run")
    from clrtool.config_file import located
    from clrtool.report.estimate_table import estimate_table

    folder = _becomes(job)
    say("loading torch and the data", quiet=job.quiet)
    # stdout is for the result, whatever a user's factory prints
    with contextlib.redirect_stdout(sys.stderr), located(path, wishes):
        from clrtool.engine.build import build_problem
        from clrtool.engine.estimate import estimate

        found = estimate(build_problem(job.settings, **job.source), job.settings, job.folder, verify=verify)
    if as_json:
        totals = {name: getattr(found, name) for name in ("iterations", "epochs", "seconds", "disk_bytes")}
        typer.echo(json.dumps({"status": "dry run", **asdict(found), **totals, "folder": folder}, indent=2))
        return
    show(estimate_table(found, job.folder.resolve().name, folder), plain=job.plain)


def _becomes(job: Job) -> str:
    """The run folder, and what a range test would make of it."""
    from clrtool.report.run import finished_run

    try:
        record = finished_run(job.folder, job.settings, fresh=job.fresh)
    except ConfigError as error:
        return f"refused: {error}"
    if record is not None:
        return f"{job.folder}: holds a finished run of this config, which would be shown"
    if (job.folder / SWEEP).is_dir() and not job.fresh:
        return f"{job.folder}: holds an unfinished run, which would go on"
    return f"{job.folder}: " + ("would be replaced" if job.fresh and job.folder.exists() else "would be new")
