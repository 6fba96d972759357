"""Steps a second: clrtool's captured step and the finders that people use, against a graph that is captured by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from clrtool.engine.rangetest import sweep
from clrtool.engine.runtime.device import arithmetic
from tests.benchmarks.finders import PEERS, Case, Work, absent, hand_captured, in_turns, pairs, swept, ways
from tests.gpu.dry import uncaptured
from tests.gpu.results import Results

BASE = "hand-captured"
# Iterations and repeats on a GPU: a large network takes longer and scatters less.
SIZES = {"ResNet-18": (50, 3)}
USUAL = (200, 5)
# Samples of a batch and iterations in the dry form.
SMALL = (8, 5)
DRY = {"ResNet-18": (2, 2)}
WHOLE = 300


def _case(model: str, batch_size: int, precision: str, device: str) -> Case:
    if device == "cpu":
        return Case(model, *DRY.get(model, SMALL), 1, device, precision, as_graph=True)
    return Case(model, batch_size, *SIZES.get(model, USUAL), device, precision, as_graph=True)


def sweeps(results: Results, device: str, model: str, batch_size: str, *precisions: str) -> None:
    """The time of an iteration by every way, as a multiple of that of the graph captured by hand."""
    for precision in precisions[:1] if device == "cpu" else precisions:
        case = _case(model, int(batch_size), precision, device)
        about = {"model": model, "batch": case.batch_size, "precision": precision, "iterations": case.iterations}
        for name in (each for each in ways(case) if each != BASE):
            _tell(results, "sweep", about | {"way": name}, lambda case=case, name=name: pairs(case, BASE, name))
    results.add("absent", peers=absent())


def whole_tests(results: Results, device: str, *models: str) -> None:
    """300 iterations by a way that is made anew for them: with its capture, its check and, by clrtool, its evaluations."""
    if device == "cpu":
        sweep.make_ensembles = uncaptured
    batch_size, iterations, repeats = (8, 10, 1) if device == "cpu" else (128, WHOLE, 3)
    for model in models:
        case = Case(model, batch_size, iterations, repeats, device, as_graph=True)
        about = {"model": model, "batch": batch_size, "precision": "fp32", "iterations": iterations}
        for name, whole in _whole(case).items():
            _tell(results, "whole test", about | {"way": name}, partial(_beside_the_graph, case, whole))


def _beside_the_graph(case: Case, whole: Work) -> tuple[float, float]:
    """In one arithmetic: torch's own default for convolutions is another than that of ``fp32``."""
    with arithmetic(case.precision, deterministic=False):
        return in_turns(case, _anew(case, hand_captured), lambda: whole)


def _whole(case: Case) -> dict[str, Work]:
    peers = {name: _anew(case, peer) for name, peer in PEERS.items() if name not in absent()}
    return {"clrtool": lambda: swept(case), **peers}


def _anew(case: Case, make: Callable[[Case], Work]) -> Work:
    return lambda: make(case)()  # noqa: PLW0108 (the way is made when it is run)


def _tell(results: Results, what: str, about: dict[str, object], measure: Callable[[], tuple[float, float]]) -> None:
    """Write what was measured, or why it failed: one finder that fails costs no other."""
    try:
        ratio, base = measure()
    except Exception as error:
        results.add(what, **about, fault=f"{type(error).__name__}: {error}"[:300])
        if about["way"] not in PEERS:
            raise
        return
    results.add(what, **about, ratio=round(ratio, 3), base_us=round(1e6 * base, 2), us=round(1e6 * base * ratio, 2))
