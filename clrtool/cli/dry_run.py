"""``clrtool rangetest --dry-run``: what a range test would take, without a file."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from clrtool.cli.console import say, show
from clrtool.cli.run.pipeline import is_complete, plan_between, workload_of
from clrtool.cli.run.spec import SWEEP, Job
from clrtool.cli.run.torchrun import check_alone
from clrtool.errors import ConfigError, MachineError

if TYPE_CHECKING:
    from clrtool.engine.configured.workload import ConfiguredWorkload


def dry_run(job: Job, path: Path, wishes: Sequence[str], jobs: int, *, verify: bool, as_json: bool) -> None:
    """Build the workload, time a few steps, and tell what the whole would take.

    Args:
        path, wishes: the config and the overrides, which an error names.
        jobs: processes that would share the seeds.
        verify: whether ``--verify`` was asked for.
    """
    check_alone("rangetest --dry-run")
    from clrtool.config.file import located
    from clrtool.report.estimate_table import estimate_table

    say("loading torch and the data", quiet=job.quiet)
    # stdout is for the result, whatever a user's factory prints
    with contextlib.redirect_stdout(sys.stderr), located(path, wishes):
        from clrtool.engine.rangetest.estimate import estimate
        from clrtool.engine.runtime.device import computing_with

        workload = workload_of(job)
        plan = plan_between(job.settings.plan, workload, 1.0, 2.0) if verify else None  # of any bounds it is as long
        shards = () if job.share is None else job.share.shards
        with computing_with(job.threads):
            found = estimate(workload, job.settings, job.folder, plan, shards, jobs)
        folder = _becomes(job, workload, verify=verify)
    if as_json:
        totals = {name: getattr(found, name) for name in ("iterations", "epochs", "seconds", "disk_bytes")}
        typer.echo(json.dumps({"status": "dry run", **asdict(found), **totals, "folder": folder}, indent=2))
        return
    show(estimate_table(found, job.folder.resolve().name, folder), plain=job.plain)


def _becomes(job: Job, workload: ConfiguredWorkload, *, verify: bool) -> str:
    """The run folder, and what a range test would make of it."""
    from clrtool.engine.resume.checkpoint import CheckpointFolder
    from clrtool.engine.resume.open import open_journal
    from clrtool.report.run import finished_run

    checkpoints = CheckpointFolder(job.folder / SWEEP)
    try:
        record = finished_run(job.folder, job.settings, fresh=job.fresh)
        if record is not None:
            would = "be shown" if is_complete(job, record, verify=verify) else "go on to what is left"
            return f"{job.folder}: holds a finished run of this config, which would {would}"
        if job.fresh or not checkpoints.folder.is_dir():
            return f"{job.folder}: would be {'replaced' if job.fresh and job.folder.exists() else 'new'}"
        text = open_journal(checkpoints, workload, job.settings.sha256(), job.signals, job.every)[1]
    except (ConfigError, MachineError) as error:
        return f"refused: {error}"
    return f"{job.folder}: holds an unfinished run, which would go on: {text}"
