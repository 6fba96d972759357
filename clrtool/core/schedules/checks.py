"""The rules that the numbers of a schedule have to keep; each breaks with a ValueError that says which and how."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

# Twice as many do not fit into 64 bits.
LAST = 2**62
# No arithmetic on a learning rate below this overflows.
MAX_LR = 1e100


def check_lr(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is a finite number; whether it makes sense is the linter's to say."""
    if not is_number(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    if abs(float(value)) > MAX_LR:
        raise ValueError(f"{name} must be at most {MAX_LR:g}, got {value!r}")


def check_ends(base_lr: float, max_lr: float) -> None:
    """Raise ValueError unless both are finite. A schedule may begin at the top, rise where others fall, and cross 0."""
    check_lr("base_lr", base_lr)
    check_lr("max_lr", max_lr)


def check_positive(name: str, value: float, at_most: float = math.inf) -> None:
    """Raise ValueError unless ``value`` is finite, above 0 and not above ``at_most``."""
    if not (is_number(value) and value > 0):
        raise ValueError(f"{name} must be finite and above 0, got {value!r}")
    if value > at_most:
        raise ValueError(f"{name} must be at most {at_most:g}, got {value!r}")


def check_whole(name: str, value: float, at_least: int = 1) -> None:
    """Raise ValueError unless ``value`` is a whole number of at least ``at_least``."""
    if not (is_number(value) and value == int(value) and at_least <= value <= LAST):
        raise ValueError(f"{name} must be a whole number of at least {at_least}, got {value!r}")


def check_rising(name: str, values: tuple[float, ...]) -> None:
    """Raise ValueError unless the values are finite and each is above the one before."""
    if not all(map(is_number, values)) or any(b <= a for a, b in pairwise(values)):
        raise ValueError(f"{name} must be finite and rise from each to the next, got {list(values)!r}")


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite number; True and False are none."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)
