"""LR range test and schedule planner for PyTorch.

Start with :func:`range_test` for a model, an optimizer and loaders, or with ``clrtool rangetest digits`` in the shell.
``clrtool guide`` lists the pages of the guide. Public names load on first use, so ``import clrtool`` imports neither
torch nor matplotlib. DESIGN.md beside this file explains how the package is built.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Bounds": "clrtool.core.reading.bounds",
    "Compared": "clrtool.api.comparing",
    "ConfigError": "clrtool.errors",
    "Curve": "clrtool.core.reading.curve",
    "DryRun": "clrtool.api.dryrun",
    "MachineError": "clrtool.errors",
    "Plan": "clrtool.core.planning.plan",
    "PlanScheduler": "clrtool.engine.training.scheduler",
    "Varied": "clrtool.api.varying",
    "Workload": "clrtool.engine.training.workload",
    "RangeTest": "clrtool.api.rangetest",
    "RangeTestConfig": "clrtool.config.schema",
    "RangeTestOptions": "clrtool.engine.inprocess.options:Options",
    "RunRecord": "clrtool.core.results.record",
    "build_workload": "clrtool.engine.configured.build",
    "compare": "clrtool.api.comparing",
    "dry_run": "clrtool.api.dryrun",
    "find_bounds": "clrtool.core.reading.from_arrays",
    "load_config": "clrtool.config.file",
    "make_plan": "clrtool.core.planning.make",
    "plan_from": "clrtool.core.planning.plan",
    "plan_stages": "clrtool.core.planning.make",
    "range_test": "clrtool.api.rangetest",
    "read_run": "clrtool.report.records.run",
    "read_plan": "clrtool.report.records.plan_file",
    "run_range_test": "clrtool.engine.rangetest.pipeline:range_test",
    "schedule_from": "clrtool.core.sources",
    "to_code": "clrtool.report.programs.program",
    "vary": "clrtool.api.varying",
    "write_run": "clrtool.report.records.run",
}

__all__ = [*_HOME, "__version__"]  # noqa: PLE0604 (the names are those of _HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'clrtool' has no attribute {name!r}")
    module, _, other = _HOME[name].partition(":")
    return getattr(importlib.import_module(module), other or name)


def __dir__() -> list[str]:
    return sorted(__all__)
