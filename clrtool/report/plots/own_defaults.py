"""matplotlib, imported so that no file in the current folder or in the home has a say in it.

While it is imported it obeys the first ``matplotlibrc`` that it finds, that of the current folder first: one that asks
for LaTeX starts programs, and one that cannot be read, or never ends, stops a test whose results are there. So it is
imported where its own lies.

It reads a cache of fonts in the home, without end if that is a pipe, and writes a new one through a link, over whatever
that leads to. So a cache that is no plain file is refused, by its name.

Where the home cannot be written it keeps its cache of fonts in a passing folder, and warns of that in words of its own.
Nothing is lost by it but time, so this warning alone is kept back: a home that is read-only is common in containers.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from clrtool.errors import MachineError


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


def _check_fonts() -> None:
    """Raise MachineError where the cache of fonts, which is read when text is first measured, is no plain file."""
    import matplotlib as mpl  # noqa: PLC0415

    for file in Path(mpl.get_cachedir()).glob("fontlist-*.json"):
        if not stat.S_ISREG(file.lstat().st_mode):
            raise MachineError(f"{file}: matplotlib keeps its fonts here, and this is no plain file: remove it")


_import_with_own_defaults()
if "matplotlib.font_manager" not in sys.modules:
    _check_fonts()
