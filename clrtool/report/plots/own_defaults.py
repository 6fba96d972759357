"""matplotlib, imported so that no file in the current folder or in the home has a say in it.

While it is imported it obeys the first ``matplotlibrc`` that it finds, that of the current folder first: one that asks
for LaTeX starts programs, and one that cannot be read, or never ends, stops a test whose results are there. So it is
imported where its own lies.

Where the home cannot be written it keeps its cache of fonts in a passing folder, and warns of that in words of its own.
Nothing is lost by it but time, so this warning alone is kept back: a home that is read-only is common in containers.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Stand in another folder, and come back, even if that which one came from is gone."""
    here = os.open(".", getattr(os, "O_PATH", os.O_RDONLY))
    try:
        os.chdir(folder)
        yield
    finally:
        os.fchdir(here)
        os.close(here)


def _is_no_word_of_its_cache(record: logging.LogRecord) -> bool:
    """Whether a message is another than that of the folder which matplotlib cannot use: known by who says it."""
    return record.funcName != "_get_config_or_cache_dir"


def _import_with_own_defaults() -> None:
    spec = find_spec("matplotlib")
    if "matplotlib" in sys.modules or spec is None or spec.origin is None:
        return
    logging.getLogger("matplotlib").addFilter(_is_no_word_of_its_cache)
    with _inside(Path(spec.origin).parent / "mpl-data"):
        import matplotlib  # noqa: F401, PLC0415


_import_with_own_defaults()
