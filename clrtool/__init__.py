"""LR range test and schedule planner for PyTorch: two bounds from an accuracy curve, and a plan in whole cycles.

The public names load on first use, so that ``import clrtool`` brings in neither torch nor matplotlib.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Bounds": "clrtool.core.bounds",
    "ConfigError": "clrtool.errors",
    "Curve": "clrtool.core.curve",
    "MachineError": "clrtool.errors",
    "Plan": "clrtool.core.plan",
    "PlanScheduler": "clrtool.engine.plan_scheduler",
    "Problem": "clrtool.engine.problem",
    "RangeTest": "clrtool.notebook",
    "RangeTestConfig": "clrtool.config",
    "RunRecord": "clrtool.core.record",
    "build_problem": "clrtool.engine.build",
    "find_bounds": "clrtool.core.measured",
    "load_config": "clrtool.config_file",
    "make_plan": "clrtool.core.plan",
    "plan_from": "clrtool.core.plan",
    "plan_stages": "clrtool.core.plan",
    "range_test": "clrtool.notebook",
    "read_run": "clrtool.report.run",
    "read_plan": "clrtool.report.plan_file",
    "run_range_test": "clrtool.engine.sweep",
    "schedule_from": "clrtool.core.sources",
    "to_code": "clrtool.report.code",
    "write_run": "clrtool.report.run",
}

__all__ = [*_HOME, "__version__"]  # noqa: PLE0604 (the names are those of _HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'clrtool' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
