"""``clrtool rangetest --dry-run``: what a range test would take, without a file."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from clrtool.cli.console import show
from clrtool.cli.run.folder import RunFolder
from clrtool.cli.run.seed_share import SWEEP, SeedShare
from clrtool.errors import ConfigError, MachineError

if TYPE_CHECKING:
    from clrtool.engine.configured.workload import ConfiguredWorkload


def dry_run(folder: RunFolder, share: SeedShare) -> None:
    """Build the workload, time a few steps, and tell what the whole would take; of several ranks all do so together."""
    from clrtool.report.text.estimate_table import estimate_table

    spec, display = folder.spec, folder.spec.display
    folder.say("loading torch and the data")
    # stdout is for the result, whatever a user's factory prints
    with contextlib.redirect_stdout(sys.stderr), spec.located():
        from clrtool.engine.rangetest.estimate import estimate
        from clrtool.engine.rangetest.pipeline import check_plan
        from clrtool.engine.runtime.device import computing_with

        workload = spec.build(ranks=folder.ranks)
        check_plan(workload, spec.config.plan)
        with computing_with(spec.threads):
            found = estimate(workload, spec.config, spec.folder, share.shards, folder.executor.workers)
        becomes = _becomes(folder, workload)
    if display.as_json:
        totals = {name: getattr(found, name) for name in ("iterations", "epochs", "seconds", "disk_bytes")}
        typer.echo(json.dumps({"status": "dry run", **asdict(found), **totals, "folder": becomes}, indent=2))
        return
    show(estimate_table(found, spec.folder.resolve().name, becomes), plain=display.plain)


def _becomes(folder: RunFolder, workload: ConfiguredWorkload) -> str:
    """The run folder, and what a range test would make of it."""
    from clrtool.engine.resume.checkpoint import CheckpointFolder
    from clrtool.engine.resume.open import about_test, look_back
    from clrtool.report.records.run import finished_run

    path, config = folder.path, folder.spec.config
    checkpoints = CheckpointFolder(path / SWEEP)
    try:
        record = finished_run(path, config, fresh=folder.fresh)
        if record is not None:
            would = "be shown" if folder.is_complete(record) else "be completed"
            return f"{path}: holds a finished run of this config, which would {would}"
        if folder.fresh or not checkpoints.folder.is_dir():
            return f"{path}: would be {'replaced' if folder.fresh and path.exists() else 'new'}"
        text = look_back(checkpoints, about_test(workload, config.sha256()))[2]
    except (ConfigError, MachineError) as error:
        return f"refused: {error}"
    return f"{path}: holds an unfinished run, which would resume: {text}"
