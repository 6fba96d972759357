"""Processes that train together, started as torchrun does it, but without the seconds that it takes itself."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.forks import PATIENCE, zygote


class Rank:
    """A rank that was forked, with as much of ``subprocess.Popen`` as tests of ranks ask for."""

    def __init__(self, run):
        self._run, self.pid, self.returncode = run, run.pid, None
        self.stderr = run.follow_errors()

    def send_signal(self, number):
        self._run.kill(number)

    def kill(self):
        self._run.kill(signal.SIGKILL)

    def communicate(self, timeout=PATIENCE):
        """All that it has printed, once it has ended. Raises TimeoutError."""
        self.returncode = self._run.wait(timeout)
        return self._run.out, self._run.err


def start(world, *words, machines=1, forked=True, cwd=None, faults=None):
    """Start ``python words`` as so many ranks, each with one thread, as if they were on so many machines.

    They are forked from a process that has imported what they import, unless ``forked`` is False. ``faults`` are those
    of single ranks, as ``torture/faults.py`` has them.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    faults, started = faults or {}, []
    for rank in range(world):
        seat = place | {"RANK": rank, "LOCAL_RANK": rank % (world // machines)}
        given = list(map(str, words)), cwd, os.environ | {key: str(value) for key, value in seat.items()}
        started.append(_fork(*given, faults.get(rank)) if forked else _begin_anew(*given))
    return started


def _fork(words, cwd, environment, faults):
    at = words.index("-m")
    options, module, rest = words[:at], words[at + 1], words[at + 2 :]
    assert options in ([], ["-W", "ignore"]), f"a fork knows nothing of {options}"
    if options:
        environment = environment | {"PYTHONWARNINGS": "ignore"}
    return Rank(zygote().start(rest, faults, cwd or Path.cwd(), module=module, env=environment))


def _begin_anew(words, cwd, environment):
    command = [sys.executable, *words]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(processes):
    """The exit codes of all, and what each has printed on stdout and stderr."""
    printed = [process.communicate(timeout=PATIENCE) for process in processes]
    return [process.returncode for process in processes], printed


def wait_until(holds):
    """Look again and again until something holds. Raises TimeoutError."""
    end = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.01)


def restarted(*words, killed_once):
    """What two ranks of ``clrtool words`` say on stderr, of which torchrun starts anew the second, which is killed.

    Args:
        killed_once: the folder of the run, as soon as a checkpoint in it is whole: its folder alone holds nothing yet.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "--max-restarts", "1", "-m", "clrtool", *map(str, words)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: any(killed_once.glob("checkpoint/*.pt")))
    os.kill(_of_torchrun(running.pid, 1), signal.SIGKILL)
    return running.communicate(timeout=PATIENCE)[1]


def _of_torchrun(torchrun, rank):
    """The process of a rank, among the children of torchrun."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(torchrun)], capture_output=True, text=True, check=True)
    for pid in map(int, found.stdout.split()):
        if f"RANK={rank}" in Path(f"/proc/{pid}/environ").read_text(encoding="utf-8").split("\0"):
            return pid
    raise LookupError(rank)
