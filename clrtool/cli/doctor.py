"""``clrtool doctor``: what a bug report needs, and whether this machine can run a range test."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

import clrtool
from clrtool.cli.complete import configs
from clrtool.cli.console import Format, Plain, readable_or_not, show
from clrtool.cli.help import OUTPUT, RUN
from clrtool.cli.options import Overrides
from clrtool.errors import MachineError
from clrtool.files import check_here

MACHINE = 4
PACKAGES = ("numpy", "torch", "torchvision", "matplotlib", "pydantic", "ruamel.yaml", "typer", "rich")
# What changes a run: devices and their order, threads, memory, arithmetic, ranks, and how Python starts.
PREFIXES = ("CUDA_", "PYTORCH_", "TORCH_", "OMP_", "MKL_", "OPENBLAS_", "NCCL_", "CUBLAS_", "SLURM_", "CLRTOOL_")
NAMES = {"NO_COLOR", "PYTHONHASHSEED", "PYTHONPATH", "MASTER_ADDR", "RANK", "WORLD_SIZE", "LOCAL_RANK"}
# The only words that are shown; any other may be a path, a host or a token.
WORDS = {
    "true", "false", "yes", "no", "on", "off", "none", "auto", "default", "all", "cpu", "cuda", "gpu", "gloo", "nccl",
    "error", "warn", "warning", "info", "debug", "trace", "verbose", "spread", "close", "cores", "threads", "sockets",
    "static", "dynamic", "guided", "active", "passive", "intel", "gnu", "tbb", "sequential", "sse4_2", "avx", "avx2",
    "avx512", "pci_bus_id", "fastest_first", "lazy", "eager", "ring", "tree", "highest", "high", "medium",
    "expandable_segments:true", "expandable_segments:false", ":4096:8", ":16:8",
}  # fmt: skip
_NUMBERS = re.compile(r"[0-9]{1,4}(,[0-9]{1,3})*")


Config = Annotated[
    str | None,
    typer.Argument(metavar="[CONFIG]", help="Config to validate; its code is not run.", autocompletion=configs),
]
Quick = Annotated[bool, typer.Option("--quick", help="Skip the range test on each device.", rich_help_panel=RUN)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.", rich_help_panel=OUTPUT)]


def doctor(
    config: Config = None,
    overrides: Overrides = None,
    quick: Quick = False,
    as_json: Json = False,
    form: Format = None,
    plain: Plain = False,
) -> None:
    """Check that this machine can run a range test.

    Examples:
        clrtool doctor
        clrtool doctor mine.yaml
        clrtool doctor --quick --json

    A range test on handwritten digits, at most 5 seconds per device, shows that each device computes and learns.
    Environment variables are shown only if they hold small numbers or well-known words; of any other value the length
    is shown. A config is validated and the imports that it needs are listed; no code is imported and no data read.
    Exit code 4 means that the machine lacks something.
    """
    check_here()
    checked = {} if config is None else {"config": _checked(config, overrides or ())}
    from clrtool.engine.runtime.hardware import survey
    from clrtool.report.text.doctor_table import doctor_table

    machine = survey()
    tests = [] if quick or machine.threads is None else _self_tests()
    faults = (*machine.faults, *(f"{each['device']} fails: {each['fault']}" for each in tests if each["fault"]))
    report = {
        "versions": _versions(),
        "machine": asdict(machine) | {"faults": faults},
        "self_tests": tests,
        "environment": relevant(os.environ),
        **checked,
    }
    if as_json:
        status = {"status": "error", "code": MACHINE, "message": "\n".join(faults)} if faults else {}
        with readable_or_not():
            typer.echo(json.dumps({"status": "ok", **status, **report}, indent=2))
        raise typer.Exit(MACHINE if faults else 0)
    with readable_or_not():
        show(doctor_table(report), plain=plain)
    if faults:
        raise MachineError("\n".join(faults))


def _self_tests() -> list[dict[str, Any]]:
    """A short range test on each device."""
    from clrtool.engine.rangetest.self_test import devices, self_test

    return [asdict(self_test(device)) for device in devices()]


def _checked(source: str, overrides: Sequence[str]) -> Mapping[str, Any]:
    """A config that is valid, and what it would import. Raises ConfigError for one that is not."""
    from clrtool.config.file import find_config, load_config

    settings = load_config(find_config(source), overrides)
    factories = settings.factories()
    return {
        "source": source,
        "sha256": settings.sha256(),
        "factories": factories,
        "allow_import": sorted({f"{factory.partition(':')[0]}:*" for factory in factories.values()}),
    }


def _versions() -> dict[str, str]:
    return {"clrtool": clrtool.__version__, "python": platform.python_version(), **dict(map(_version, PACKAGES))}


def _version(package: str) -> tuple[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return package, version(package)
    except PackageNotFoundError:
        return package, "not installed"


def relevant(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that change a run, with masked values.

    >>> relevant({"CUDA_VISIBLE_DEVICES": "0,1", "CLRTOOL_TOKEN": "abc", "HOME": "/home/me"})
    {'CLRTOOL_TOKEN': 'set (3 characters)', 'CUDA_VISIBLE_DEVICES': '0,1'}
    """
    names = sorted(name for name in environment if name.startswith(PREFIXES) or name in NAMES)
    return {name: _masked(environment[name]) for name in names}


def _masked(value: str) -> str:
    if _NUMBERS.fullmatch(value) or value.lower() in WORDS:
        return value
    return f"set ({len(value)} characters)"
