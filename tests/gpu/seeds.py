"""Several seeds at once: as streams of one graph, which is clrtool's way, and batched into wider kernels."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from tests.benchmarks.finders import HIGHEST, MODELS, Captured, Case, Work, clock, team
from tests.gpu.results import Results

NUMBERS = (1, 3, 8)
BATCHED = ("tiny MLP", "small convnet")


def streams_and_batched(results: Results, device: str) -> None:
    """Microseconds of a step of all seeds. Batched is written by hand for SGD with momentum, without any check."""
    for model in BATCHED:
        for seeds in NUMBERS:
            batch_size, iterations, repeats = (8, 5, 1) if device == "cpu" else (128, 200, 5)
            case = Case(model, batch_size, iterations, repeats, device, as_graph=True)
            for name, make in {"streams": _streams, "batched": _batched}.items():
                work = make(case, seeds)
                clock(case, work)
                seconds = statistics.median(clock(case, work) for _ in range(case.repeats))
                us = round(1e6 * seconds / case.iterations, 2)
                results.add("seeds", model=model, way=name, seeds=seeds, us=us)


def _streams(case: Case, seeds: int) -> Work:
    return team(case.workload(channels_last=False), case, seeds)


def _batched(case: Case, seeds: int) -> Work:
    """One step of all seeds whose weights lie in one tensor each; the batches differ, the learning rate is fixed."""
    step = _step(case, seeds)
    run: Callable[[], object] = step
    if case.captured:
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            step()
        run = Captured(graph, step)

    def work() -> None:
        for _ in range(case.iterations):
            run()

    return work


def _step(case: Case, seeds: int) -> Callable[[], None]:
    members = [MODELS[case.model]().to(case.device) for _ in range(seeds)]
    weights, buffers = stack_module_state(members)
    momenta = {name: torch.zeros_like(each) for name, each in weights.items()}
    images, labels = case.data()
    places = torch.randint(len(labels), (seeds, case.batch_size), device=case.device)

    def loss(weights: dict[str, Tensor], buffers: dict[str, Tensor], places: Tensor) -> Tensor:
        outputs = functional_call(members[0], (weights, buffers), (images[places],))
        return nn.functional.cross_entropy(outputs, labels[places])

    gradients = vmap(grad(loss), randomness="different")

    @torch.no_grad()
    def step() -> None:
        for name, gradient in gradients(weights, buffers, places).items():
            momenta[name].mul_(0.9).add_(gradient)
            weights[name].sub_(momenta[name], alpha=HIGHEST)

    return step
