"""What the tasks of Ray tell while they run, and what their driver makes of it for people."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from clrtool.report.text.progress import Status
from clrtool.words import count

# Seconds between two looks, and without a task that runs before it is told what all of them wait for.
LOOK, PATIENCE = 1.0, 10.0
# Nodes, the largest first, whose resources a message names.
SHOWN_NODES = 3
KINDS = "CPU", "GPU"
Resources = Mapping[str, float]


class Board:
    """An actor, to which each task tells where it is: its node, what it is at, and how often it was begun."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[str, str, int]] = {}

    def tell(self, task: str, node: str, what: str = "") -> None:
        """Take note; a task that has nothing to tell begins."""
        begun = self._told.get(task, ("", "", 0))[2] + (not what)
        self._told[task] = (node, what, begun)

    def read(self) -> dict[str, tuple[str, str, int]]:
        return self._told


def name_of(seeds: Sequence[int]) -> str:
    """Name a task by its seeds; without any it is the scout, which finds the range that all of them sweep."""
    return f"seed {', '.join(map(str, seeds))}" if seeds else "scout"


def sweep_seeds(board: Any, words: tuple[Any, Any, int, str, bytes], seeds: Sequence[int]) -> dict[str, Any]:
    """A task: ``sweep_remotely`` of these words and seeds, which tells the board."""
    import ray

    name, node = name_of(seeds), ray.get_runtime_context().get_node_id()
    board.tell.remote(name, node)
    from clrtool.engine.rangetest.ray_worker import sweep_remotely  # it takes seconds the first time

    return sweep_remotely(*words, seeds, lambda what: board.tell.remote(name, node, what))


class Tasks:
    """The tasks that run, as a line, and what happens to them, as lines that stay.

    Args:
        need: what one task takes.
    """

    def __init__(self, need: Resources, status: Status) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self.board = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(Board).remote()
        self._need, self._status, self._begun = need, status, dict[str, tuple[str, int]]()
        self._looked = self._ran = time.monotonic()
        self._waits = ""

    def show(self, done: int, waiting: Sequence[str]) -> None:
        """Show what the tasks of these names are at, none of which is done."""
        import ray

        if time.monotonic() - self._looked < LOOK:
            return
        self._looked, told = time.monotonic(), {}
        with contextlib.suppress(ray.exceptions.RayError):  # it begins, or its node was lost
            told = ray.get(self.board.read.remote(), timeout=LOOK)
        nodes = {each["NodeID"]: each for each in ray.nodes() if each["Alive"]}
        running = {name: told[name] for name in waiting if name in told and told[name][0] in nodes}
        places = {name: nodes[node]["NodeManagerHostname"] for name, (node, _, _) in running.items()}
        for name, (node, _, begun) in running.items():
            if self._begun.setdefault(name, (node, 1)) != (node, begun):  # the board starts again too, with its node
                self._status.say(f"{name}: its node or process was lost; it starts again on {places[name]}")
            self._begun[name] = node, begun
        at = [f"{name} {what or 'starting'} on {places[name]}" for name, (_, what, _) in running.items()]
        idle = len(waiting) - len(running)
        whole = f"{done} of {count(done + len(waiting), 'task')} done"
        self._status.show(", ".join([whole, *at, *([f"{idle} waiting"] if idle else [])]))
        self._tell_wait(bool(running), idle, [each["Resources"] for each in nodes.values()])

    def _tell_wait(self, runs: bool, idle: int, nodes: Sequence[Resources]) -> None:
        """Say once what all tasks wait for, if they do."""
        import ray

        if runs:
            self._ran, self._waits = time.monotonic(), ""
        elif time.monotonic() - self._ran > PATIENCE:
            waits = why_waiting(idle, self._need, nodes, ray.available_resources())
            if waits != self._waits:
                self._status.say(waits)
            self._waits = waits


def amounts(resources: Resources) -> str:
    """Resources for people.

    >>> amounts({"CPU": 2.0, "GPU": 0.25, "memory": 1e9}), amounts({})
    ('2 CPUs and 0.25 GPU', 'no CPU')
    """
    given = [f"{resources[kind]:g} {kind}{'s' * (resources[kind] > 1)}" for kind in KINDS if resources.get(kind)]
    return " and ".join(given) or "no CPU"


def why_waiting(tasks: int, need: Resources, nodes: Sequence[Resources], free: Resources) -> str:
    """Why no task runs: no node is large enough, or what there is of it is taken.

    >>> why_waiting(2, {"CPU": 4}, [{"CPU": 2}], {"CPU": 2})
    '2 tasks wait: each takes 4 CPUs, more than any node has: 2 CPUs. A node that joins is used'
    >>> why_waiting(1, {"CPU": 1, "GPU": 0.5}, [{"CPU": 2, "GPU": 1}], {"CPU": 2})
    '1 task waits: it takes 1 CPU and 0.5 GPU; the cluster has 2 CPUs and 1 GPU, free: 2 CPUs'
    """
    each = f"{count(tasks, 'task')} {'waits: it takes' if tasks == 1 else 'wait: each takes'} {amounts(need)}"
    if not any(all(node.get(kind, 0) >= amount for kind, amount in need.items()) for node in nodes):
        largest = sorted(nodes, key=lambda node: [node.get(kind, 0) for kind in reversed(KINDS)], reverse=True)
        have = "; ".join(map(amounts, largest[:SHOWN_NODES])) or "there is none"
        return f"{each}, more than any node has: {have}. A node that joins is used"
    total = {kind: sum(node.get(kind, 0) for node in nodes) for kind in KINDS}
    return f"{each}; the cluster has {amounts(total)}, free: {amounts(free)}"
