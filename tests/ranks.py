"""Processes that train together, started as torchrun does it, but without the seconds that it takes itself."""

import os
import socket
import subprocess
import sys
import time

PATIENCE = 120


def start(world, *words, machines=1, **options):
    """Start ``python words`` as so many ranks, each with one thread, as if they were on so many machines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, words)],
            env=os.environ
            | {
                key: str(value)
                for key, value in (place | {"RANK": rank, "LOCAL_RANK": rank % (world // machines)}).items()
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        for rank in range(world)
    ]


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
