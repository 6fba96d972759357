"""Exit codes of errors."""

from __future__ import annotations

from clrtool.errors import BusyError, ConfigError, MachineError

INTERNAL = 70
# The first kind that an error is of decides.
_CODES = {ConfigError: 2, BusyError: 75, MachineError: 4, OSError: 4, BaseException: INTERNAL}


def exit_code(error: BaseException) -> int:
    """The code with which a command ends that fails in this way."""
    return next(code for kind, code in _CODES.items() if isinstance(error, kind))
