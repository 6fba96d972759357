"""The two kinds of error that are a user's business; anything else is a bug of ours."""

from __future__ import annotations


class ConfigError(ValueError):
    """What the user wrote breaks a rule: every fault at once, each with its place. Exit code 2."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class MachineError(RuntimeError):
    """The machine lacks something: a device, a dataset, memory, space on a disk. Exit code 4."""
