"""How deep and how wide the package is: what one run enters, and what a reader has to read.

``python -m tests.benchmarks.structure [CHECKOUT] [--json]``, from the root of this repository; CHECKOUT is the folder
that holds ``clrtool/``, by default this one. ``clrtool rangetest digits`` runs in a process and a temporary
folder of its own. Of the package only ``clrtool.cli.main:main`` is known, so that any version can be measured.

- **frames**: of the package, on the stack when the optimizer steps, from ``main`` to the function that steps, both
  counted; of all steps the deepest. What torch and others put in between is not counted.
- **functions**, **files**: entered from ``main`` on, in any thread; a method is a function, and so is a lambda,
  but not a comprehension, which some versions of Python run within the function around it, nor the body of a class or
  a module. A file counts where one of its functions was entered.
- **circles**: groups of files that import one another by some way round; an import counts wherever it stands, also
  under ``TYPE_CHECKING`` and in a function. An import of a file does not count as one of the ``__init__.py`` above it.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

PACKAGE = "clrtool"
WORDS = ["rangetest", "digits", "--device", "cpu"]
COMPREHENSIONS = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}
PROBE = ("--probe-stack", "--probe")
Graph = dict[str, set[str]]


# What a run enters: in a process of its own, which gets the folder of the package, a file for its findings, the words.


def probe(root: Path, findings: Path, words: list[str], is_watched: bool) -> None:
    """Run the command line, write what it entered as JSON, and leave with its exit code."""
    from clrtool.cli.main import main

    where = str(sys.modules[PACKAGE].__file__)
    assert Path(where).is_relative_to(root), f"{where} was imported, not {root}"
    stacks: list[list[str]] = []
    watch_steps(root, stacks)
    entered: set[CodeType] = set()
    if is_watched:
        watch_calls(entered)
    try:
        main(words)
    finally:
        sys.setprofile(None)
        own = sorted(name for code in entered if (name := own_name(code, root)) is not None)
        findings.write_text(json.dumps({"entered": own, "stack": max(stacks, key=len, default=[])}))


def watch_steps(root: Path, stacks: list[list[str]]) -> None:
    """Keep the stack of every optimizer step that is deeper than all before it."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    def look(*_: object) -> None:
        frames = [name for frame in callers(sys._getframe()) if (name := own_name(frame.f_code, root)) is not None]
        if not stacks or len(frames) > len(stacks[-1]):
            stacks.append(frames[::-1])

    register_optimizer_step_pre_hook(look)


def callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def watch_calls(entered: set[CodeType]) -> None:
    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            entered.add(frame.f_code)

    threading.setprofile(profile)
    sys.setprofile(profile)


def own_name(code: CodeType, root: Path) -> str | None:
    """``engine/sweep.py:12 Sweep.run`` of a function of the package; None for all else."""
    path = Path(code.co_filename)
    is_function = code.co_flags & inspect.CO_NEWLOCALS and code.co_name not in COMPREHENSIONS  # a class body has none
    if not is_function or not path.is_relative_to(root):
        return None
    return f"{path.relative_to(root)}:{code.co_firstlineno} {code.co_qualname}"


class Run(NamedTuple):
    """What ``probe`` found."""

    entered: list[str]
    stack: list[str]

    @property
    def files(self) -> set[str]:
        return {name.split(":")[0] for name in self.entered}


def run(checkout: Path, is_watched: bool = True) -> Run:
    """Probe a checkout, in a fresh folder; where no call is watched, it takes a third of the time and has a stack alone."""
    with tempfile.TemporaryDirectory() as folder:
        findings = Path(folder, "findings.json")
        # -P: the folder of this file is no place to import from
        command = [sys.executable, "-P", __file__, PROBE[is_watched], str(checkout / PACKAGE), str(findings), *WORDS]
        environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode not in {0, 3}:  # 3: the curve of so short a test shows no bounds
            sys.exit(f"{checkout}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        found = Run(**json.loads(findings.read_text()))
    if not found.stack:
        sys.exit(f"{checkout}: no optimizer of torch has made a step")
    return found


# What there is to read: from the text of the files alone.


def sources(package: Path) -> dict[str, str]:
    """The text of each file, by its path in the package."""
    return {str(path.relative_to(package)): path.read_text() for path in sorted(package.rglob("*.py"))}


def imports(files: dict[str, str]) -> Graph:
    """Which file imports which."""
    modules = {module_name(file): file for file in files}
    return {
        file: {modules[name] for name in imported(ast.parse(text), file, modules)} - {file}
        for file, text in files.items()
    }


def module_name(file: str) -> str:
    parts = [PACKAGE, *Path(file).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.Module, file: str, modules: dict[str, str]) -> Iterator[str]:
    """The modules of the package that a file imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            home = source_module(node, file)
            for alias in node.names:
                inner = f"{home}.{alias.name}"
                if (name := inner if inner in modules else home) in modules:
                    yield name


def source_module(node: ast.ImportFrom, file: str) -> str:
    """The module behind ``from``, with its dots resolved."""
    if not node.level:
        return node.module or ""
    folder = [PACKAGE, *Path(file).parent.parts]
    return ".".join([*folder[: len(folder) - node.level + 1], *([node.module] if node.module else [])])


def circles(graph: Graph) -> list[list[str]]:
    """The groups of files that reach one another, the largest first."""
    reach = {file: reached(graph, file) for file in graph}
    groups = {
        tuple(sorted(other for other in reach[file] if file in reach[other])) for file in graph if file in reach[file]
    }
    return sorted(map(list, groups), key=lambda group: (-len(group), group))


def reached(graph: Graph, start: str) -> set[str]:
    """What a file imports, by any way round; itself only if there is a way back."""
    found: set[str] = set()
    ahead = [start]
    while ahead:
        new = graph[ahead.pop()] - found
        found |= new
        ahead.extend(new)
    return found


def ignores(files: dict[str, str]) -> int:
    return sum(text.count("# type: ignore") for text in files.values())


# The report.


def figures(checkout: Path) -> dict[str, Any]:
    """All of the table, with the frames and the circles by name."""
    found, files = run(checkout), sources(checkout / PACKAGE)
    problems = {file: text for file, text in files.items() if "problem" in file or "workload" in file}
    groups = circles(imports(files))
    return {
        "own frames from main to the step": len(found.stack),
        "own functions entered": len(found.entered),
        "own files entered": len(found.files),
        "lines of the package": sum(text.count("\n") for text in files.values()),
        "files of the package": len(files),
        "type: ignore in the package": ignores(files),
        "type: ignore in problem and workload files": ignores(problems),
        "import circles": len(groups),
        "files in import circles": sum(map(len, groups)),
        "frames": found.stack,
        "circles": groups,
    }


def show(shown: dict[str, Any]) -> None:
    for name, value in shown.items():
        if isinstance(value, int):
            print(f"{value:>7,}  {name}")
    print("\nframes, from main down:", *shown["frames"], sep="\n  ")
    for group in shown["circles"]:
        print(f"\ncircle of {len(group)} files:", *group, sep="\n  ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="?", type=Path, default=Path(__file__).parents[2])
    parser.add_argument("--json", action="store_true", help="all figures, frames and circles as JSON")
    given = parser.parse_args()
    shown = figures(given.checkout.resolve())
    if given.json:
        print(json.dumps(shown, indent=2))
    else:
        show(shown)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in PROBE:
        probe(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:], is_watched=bool(PROBE.index(sys.argv[1])))
    main()
