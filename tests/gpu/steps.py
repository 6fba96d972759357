"""The steps of ``make gpu``, the most telling first."""

from __future__ import annotations

from typing import NamedTuple


class Step(NamedTuple):
    """One process.

    Args:
        name: in words.
        work: a function, as ``module:function``; it gets the results to add to, the device and ``args``.
        seconds: the most that it may take.
        dry: whether it is part of the dry form; not where that, whose batches are all small, would do a step twice.
    """

    name: str
    work: str
    seconds: int
    args: tuple[str, ...] = ()
    dry: bool = True


def _sweeps(model: str, batch_size: int, *precisions: str, seconds: int = 60, dry: bool = True) -> Step:
    words = model, str(batch_size), *precisions
    return Step(f"sweeps of {model}, batch {batch_size}", "speed:sweeps", seconds, words, dry)


def _tests(name: str, *files: str, seconds: int = 60) -> Step:
    return Step(name, "watch:run_tests", seconds, files)


ALL = (
    Step("the machine", "machine:survey", 60),
    _tests("tests of captures that fail", "tests/engine/test_on_gpu.py", seconds=60),
    _sweeps("tiny MLP", 128, "fp32", "tf32", seconds=60),
    _tests("tests of the captured step", "tests/engine/test_cuda_graph.py", seconds=90),
    Step("whole tests of 300 iterations", "speed:whole_tests", 60, ("tiny MLP", "small convnet")),
    _sweeps("small convnet", 128, "tf32", "bf16", "fp32", seconds=60),
    _sweeps("ResNet-18", 128, "bf16", "tf32", seconds=80),
    Step("a range test of the digits", "whole:digits", 60),
    Step("the parts of a range test of the digits", "whole:parts", 60),
    _tests("the other tests", "tests/engine/test_journal.py", "tests/engine/test_sweep.py",
           "tests/engine/test_scheduler.py", "tests/engine/test_race_on_graph.py", "tests/test_api.py",
           "tests/cli/test_ranks.py", seconds=60),
    Step("healthy steps that the check accepts", "captures:acceptance", 60, ("20",)),
    Step("memory after each capture", "captures:memory", 45, ("8",)),
    Step("the same bytes", "whole:same_bytes", 60),
    Step("seeds as streams and batched", "seeds:streams_and_batched", 60),
    Step("curves of the graph and of the plain loop", "captures:curves", 45),
    Step("a range test of CIFAR-10", "whole:cifar10", 90),
    _sweeps("cifar10_full", 128, "bf16", "tf32"),
    _sweeps("tiny MLP", 512, "fp32", dry=False),
    _sweeps("small convnet", 512, "bf16", dry=False),
    _sweeps("ResNet-18", 512, "bf16", seconds=80, dry=False),
)  # fmt: skip
