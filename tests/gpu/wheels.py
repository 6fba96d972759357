"""The packages that a machine for CUDA often lacks, as wheels that are fetched beforehand: ``make gpu-wheels``.

A wheel is an archive: unpacked into a folder of ``PYTHONPATH`` it is there, and no pip is needed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "gpu-wheels"
# The Python and the system that the wheels are for.
PYTHON = (3, 12)
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
# Distributions that are fetched with all that they need, and the modules by which they are known.
NEEDED = {"pydantic": "pydantic", "ruamel.yaml": "ruamel.yaml"}
# Finders to be timed against, without torch, which is there; and what else they need.
FINDERS, THEIRS = ("torch-lr-finder", "pytorch-ignite"), "tqdm"


class LackingError(Exception):
    """What is missing here, and what to do."""


def fetch(folder: Path = FOLDER) -> None:
    """Fetch the wheels, in place of those from before."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["bench"]]
    _download(folder, [each for each in asked if each.startswith(tuple(NEEDED))])
    _download(folder, ["--no-deps", THEIRS, *(each for each in asked if each.startswith(FINDERS))])


def _download(folder: Path, words: list[str]) -> None:
    where = ["--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON[0]}.{PYTHON[1]}"]
    where += [f"--platform={each}" for each in PLATFORMS]
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "-d", folder, *where, *words], check=True)


def lacking() -> list[str]:
    """What cannot be imported here."""
    return [name for name, module in NEEDED.items() if not _is_there(module)]


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def _canonical(name: str) -> str:
    """A distribution's name, of the spellings that mean the same: in a wheel's name a dot or a hyphen is ``_``."""
    return re.sub(r"[-_.]+", "-", name).lower()


def unpack(target: Path, folder: Path = FOLDER) -> None:
    """Unpack the wheels of a folder.

    Raises:
        LackingError: what is lacking here is not among them, or they are for another Python.
    """
    wheels = sorted(folder.glob("*.whl"))
    names = {_canonical(wheel.name.partition("-")[0]) for wheel in wheels}
    if absent := [name for name in lacking() if _canonical(name) not in names]:
        raise LackingError(
            f"{' and '.join(absent)} cannot be imported, and {folder} has no wheel of it: "
            "run make gpu-wheels where packages can be fetched"
        )
    if sys.version_info[:2] != PYTHON:
        here = ".".join(map(str, sys.version_info[:2]))
        raise LackingError(f"the wheels in {folder} are for Python {PYTHON[0]}.{PYTHON[1]}, and this is {here}")
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)


if __name__ == "__main__":
    fetch()
