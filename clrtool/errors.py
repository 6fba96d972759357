"""The two kinds of error that are a user's business; anything else is a bug of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class ConfigError(ValueError):
    """What the user wrote breaks a rule: every fault at once, each with its place. Exit code 2."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class MachineError(RuntimeError):
    """The machine lacks something: a device, a dataset, memory, space on a disk. Exit code 4."""


@contextmanager
def as_config_error(where: str = "") -> Iterator[None]:
    """Turn a rule that a number of the user's breaks, a ValueError, into a ConfigError that begins with ``where``."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}{error}") from error
