"""What a process finds when it starts, as JSON: ``python -m tests.probe WORDS``. The last word says how it ends."""

import json
import os
import resource
import signal
import sys

import torch


def found():
    return {
        "words": sys.argv[1:], "name": __name__, "folder": os.getcwd(), "first on the path": sys.path[0],  # noqa: PTH109
        "environment": dict(os.environ), "umask": os.umask(0),
        "limits": [resource.getrlimit(getattr(resource, each)) for each in dir(resource) if each.startswith("RLIMIT_")],
        "signals": [str(signal.getsignal(each)).partition(" at ")[0] for each in (
            signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR1, signal.SIGCHLD)],
        "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "terminals": [os.isatty(each) for each in range(3)], "stdin": sys.stdin.read(),
        "threads": [torch.get_num_threads(), len(os.listdir("/proc/self/task"))],  # noqa: PTH208
        "niceness": os.nice(0), "recursion": sys.getrecursionlimit(),
        "encodings": [sys.stdout.encoding, sys.stdout.errors, sys.stderr.errors, sys.getfilesystemencoding()],
    }  # fmt: skip


def end(how):
    if how == "raises":
        raise ArithmeticError("of its own")
    if how == "is interrupted":
        raise KeyboardInterrupt
    if how == "is killed":
        os.kill(os.getpid(), signal.SIGTERM)
    elif how == "leaves word":
        sys.exit("a word")
    elif how.isdecimal():
        sys.exit(int(how))


if __name__ == "__main__":
    print(json.dumps(found()))
    end(sys.argv[-1])
