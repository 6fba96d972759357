"""The two kinds of error that are a user's business; anything else is a bug of ours."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class ConfigError(ValueError):
    """What the user wrote breaks a rule: every fault at once, each with its place. Exit code 2."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class MachineError(RuntimeError):
    """The machine lacks something: a device, a dataset, memory, space on a disk. Exit code 4."""


def nearest(name: str, valid: Iterable[str], show: int = 20) -> str:
    """The end of a message about an unknown name: the nearest valid one, then the list of them.

    >>> nearest("end_rl", ["start_lr", "end_lr"])
    "did you mean 'end_lr'? Valid: end_lr, start_lr"
    """
    names: Sequence[str] = sorted(valid)
    folded = {candidate.lower(): candidate for candidate in reversed(names)}
    close = difflib.get_close_matches(name.lower(), folded, n=1)
    hint = f"did you mean {folded[close[0]]!r}? " if close else ""
    more = f" and {len(names) - show} more" if len(names) > show else ""
    return f"{hint}Valid: {', '.join(names[:show])}{more}"
