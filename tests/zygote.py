"""A process that has imported everything once, and forks ``python -m MODULE WORDS`` for each request.

It reads requests, one JSON object a line, from stdin, and answers on stdout:

``{"module": MODULE, "words": [...], "cwd": DIR, "env": {...}, "stdout": FILE, "stderr": FILE, "inject": {...},
"drawn": WHETHER}`` starts it and is answered with ``{"started": PID}``; ``{"kill": PID, "signal": N}`` sends a signal,
unless that process has ended; and ``{"ended": PID, "status": CODE}`` is said of each when it has, as subprocess counts
it: -9 of one that was killed. A module other than clrtool is imported here first, with all that it imports.

Nothing is ever computed here, for a fork after a pool of threads was started would hang. What ``inject`` may hold is
in ``torture/faults.py``. When stdin ends, all that still runs is killed. What a fork has that a process does not: modules
that are imported already, and one seed of hashes for all.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import sys
import traceback
import warnings
from pathlib import Path

from tests.sketch import instead_of_drawing
from tests.torture import faults

# What a run imports on its way, by name: without them each fork would import them again.
ON_THE_WAY = (
    "encodings.utf_8_sig",  # another user may not read Python's own files here
    "matplotlib.backends.backend_agg",
    "matplotlib.font_manager",
    "pydantic._internal._serializers",
    "torch",
    "torch._dynamo",
    "torch.utils.data",
    *(f"PIL.{name}ImagePlugin" for name in ("Bmp", "Gif", "Jpeg", "Png", "Ppm")),
)

# What no command needs: they import frameworks, which take a third of the time.
OF_FRAMEWORKS = ("clrtool.lightning", "clrtool.transformers")

# What a fork computes with unless it is told otherwise: one thread, for there is no pool that a fork would lack.
THREADS = "1"


def preload():
    """Import clrtool as a whole, and what its functions import when they are called."""
    import clrtool

    root = Path(clrtool.__file__).parent
    for file in sorted(root.rglob("*.py")):  # pkgutil would import what it walks through
        name = ".".join(file.relative_to(root.parent).with_suffix("").parts)
        if not name.endswith(("__main__", "__init__")) and not name.startswith(OF_FRAMEWORKS):
            importlib.import_module(name)
    for name in ON_THE_WAY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()


class Zygote:
    def __init__(self, requests, answers):
        self.requests, self.answers = requests, answers
        self.rest = b""
        # a pipe that nobody writes to ends with the last process that holds it
        self.running = {}

    def serve(self):
        """Answer requests. Returns, in the child that was forked for it, the request to become."""
        while True:
            for ready in select.select([self.requests, *self.running], [], [])[0]:
                if ready != self.requests:
                    self.bury(ready)
                    continue
                data = os.read(self.requests, 1 << 16)
                if not data:
                    return None
                *lines, self.rest = (self.rest + data).split(b"\n")
                for line in lines:
                    request = json.loads(line)
                    if "kill" in request:
                        self.kill(request["kill"], request["signal"])
                        continue
                    self.prepare(request["module"])
                    if self.fork():
                        return request

    def prepare(self, module):
        """Import what another module than clrtool imports; what it lacks, its own process will tell."""
        if module not in ("clrtool", *sys.modules):
            with contextlib.suppress(Exception):
                importlib.import_module(module)
            gc.freeze()

    def fork(self):
        """Whether this is the child."""
        life, alive = os.pipe()
        pid = os.fork()
        if pid == 0:
            for descriptor in (self.requests, self.answers, life, *self.running):
                os.close(descriptor)
            return True
        os.close(alive)
        self.running[life] = pid
        self.say(started=pid)
        return False

    def kill(self, pid, number):
        if pid in self.running.values():
            os.kill(pid, number)

    def bury(self, life):
        os.close(life)
        pid = self.running.pop(life)
        self.say(ended=pid, status=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    def say(self, **answer):
        os.write(self.answers, (json.dumps(answer) + "\n").encode())

    def end(self):
        for pid in self.running.values():
            os.kill(pid, signal.SIGKILL)


def become(request):
    """Be ``python -m MODULE WORDS``, as if it had been started from a shell."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup would have it ignored
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    for number, name in ((1, "stdout"), (2, "stderr")):
        descriptor = os.open(request[name], os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.argv, sys.path[0] = ["-m", *request["words"]], str(Path.cwd())
    begin_anew()
    if not request["drawn"]:
        instead_of_drawing()
    faults.inject(**request["inject"])
    code = run(request["module"])
    # all that an interpreter does for others at its end; taking down torch would take a third of the time of a run
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def begin_anew():
    """Let what was read and drawn at the imports be that of this process: torch's threads, and global generators."""
    import numpy as np
    import torch

    if os.environ.get("PYTHONWARNINGS") == "ignore":
        warnings.simplefilter("ignore")
    np.random.seed()  # noqa: NPY002 (random does it by itself)
    torch.seed()
    if (threads := os.environ.get("OMP_NUM_THREADS")) != THREADS:
        torch.set_num_threads(int(threads or os.cpu_count()))


def run(module):
    """The code that a module ends with, as the interpreter finds it."""
    if module != "clrtool":
        sys.modules.pop(module, None)  # what it imports stays, and it is run as if nobody had imported it
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            return 1
        return (stop.code or 0) & 0xFF
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # noqa: BLE001 (as the interpreter does)
        traceback.print_exc()
        return 1
    return 0


def serve():
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    # one that was started in the background by a shell would ignore it, and so would its children
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    preload()
    zygote = Zygote(requests, answers)
    zygote.say(ready=os.getpid())
    request = zygote.serve()
    if request is None:
        zygote.end()
        sys.exit(0)
    become(request)


if __name__ == "__main__":
    serve()
