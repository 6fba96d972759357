"""Commands as processes that a zygote forks: they need not import torch, which takes longer than most of them.

``subprocess`` starts them anew where that is what a test is about: how Python is started, what is imported when, what is
closed, limited or ignored before, and hashes of another seed. ``test_forks.py`` holds the two against each other.
"""

import atexit
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Long enough for a run on a busy machine; a run that takes longer hangs.
PATIENCE = 240


class Run:
    """A process that was forked by a zygote."""

    def __init__(self, zygote, pid, ended, out, err):
        self.zygote, self.pid, self._ended = zygote, pid, ended
        self._out, self._err = out, err

    def wait(self, timeout=PATIENCE):
        """Its status as subprocess counts it: -9 if it was killed. Raises TimeoutError."""
        return self._ended.result(timeout)

    def ends_within(self, seconds):
        """Wait for it this long at most."""
        try:
            self.wait(seconds)
        except TimeoutError:
            return False
        return True

    def kill(self, number):
        self.zygote.ask({"kill": self.pid, "signal": int(number)})

    def follow_errors(self):
        """A file of what it says, whose lines are waited for until it has ended."""
        return Following(self._err, self._ended.done)

    @property
    def out(self):
        return self._out.read_text()

    @property
    def err(self):
        return self._err.read_text()


class Following:
    """A file that a process still writes, read line by line as a pipe would be."""

    def __init__(self, file, ended):
        self._file, self._ended, self._read = file, ended, 0

    def readline(self):
        line = ""
        while not line.endswith("\n"):
            ended = self._ended()  # before the look, for what it wrote last is read too
            with self._file.open() as file:
                file.seek(self._read)
                line += (more := file.readline())
                self._read = file.tell()
            if not more:
                if ended:
                    break
                time.sleep(0.01)
        return line


class Zygote:
    """The other end of ``zygote.py``; may be used by several threads."""

    def __init__(self, folder):
        self.folder = folder
        # what C++ says of its own accord is decided when torch is loaded: as it is where ranks are hushed
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
        command = [sys.executable, "-m", "tests.zygote"]
        self.errors = (folder / "zygote.err").open("w")
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors
        )
        self._asking, self._started, self._ended = threading.Lock(), queue.Queue(), {}
        self._number = 0
        threading.Thread(target=self._listen, daemon=True).start()
        assert self._started.get(timeout=PATIENCE) is not None, (folder / "zygote.err").read_text()

    def start(self, command, inject=None, cwd=None, *, module="clrtool", env=None, drawn=False):
        """Start ``python -m module command``; one thread, and no colours, unless an environment is given.

        Its pictures are sketched unless they are to be drawn.
        """
        with self._asking:
            self._number += 1
            out, err = (self.folder / f"{self._number}.{name}" for name in ("out", "err"))
            for file in (out, err):
                file.touch()  # it may be killed before it opens them
            request = {"module": module, "words": list(map(str, command)), "cwd": str(cwd or self.folder)}
            request |= {"env": dict(os.environ) | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"} if env is None else env}
            self._send(request | {"stdout": str(out), "stderr": str(err), "inject": inject or {}, "drawn": drawn})
            return Run(self, *self._started.get(timeout=PATIENCE), out, err)

    def run(self, command, inject=None, cwd=None, **options):
        """Start and wait."""
        run = self.start(command, inject, cwd, **options)
        run.status = run.wait()
        return run

    def ask(self, request):
        with self._asking:
            self._send(request)

    def close(self):
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process.stdout.close()
        self.errors.close()

    def _send(self, request):
        self._process.stdin.write((json.dumps(request) + "\n").encode())
        self._process.stdin.flush()

    def _listen(self):
        for line in self._process.stdout:
            answer = json.loads(line)
            if "ended" in answer:
                self._ended.pop(answer["ended"]).set_result(answer["status"])
            elif "started" in answer:
                future = self._ended[answer["started"]] = Future()
                self._started.put((answer["started"], future))
            else:
                self._started.put(answer)
        self._started.put(None)


@cache
def zygote():
    """The one zygote of this process, started when it is asked for first."""
    folder = tempfile.TemporaryDirectory(prefix="clrtool-zygote-")
    found = Zygote(Path(folder.name))
    atexit.register(folder.cleanup)
    atexit.register(found.close)
    return found
