"""How far schedules are from those of other systems: what the tests compare, added up into a table.

``CLRTOOL_EXAMPLES=300 CLRTOOL_TABLE=table.md python -m pytest tests/core/test_peers.py tests/core/test_sources.py`` writes
it; a system that is not installed has no row.
"""

import atexit
import os
from pathlib import Path

import numpy as np

# Below this a difference of one in the last digit of a double is no share of it: doubles have fewer digits there.
_EXACT = np.finfo(float).tiny / np.finfo(float).eps

# For each source: parameter sets tried, values compared, and the greatest difference as a share of the largest value.
_SEEN: dict[str, list] = {}


def tally(source, params, ours, theirs):
    """Count one schedule of which two arrays of values were compared."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    sets, values, worst = _SEEN.get(source, (set(), 0, 0.0))
    largest = np.abs(theirs).max(initial=0.0)
    error = np.abs(ours - theirs).max(initial=0.0) / largest if largest > _EXACT else 0.0
    sets.add(hash(repr(params)))
    _SEEN[source] = [sets, values + theirs.size, max(worst, float(error))]


def _write():
    rows = [
        f"| {name} | {len(sets):,} | {values:,} | {worst:.1e} |"
        for name, (sets, values, worst) in sorted(_SEEN.items())
    ]
    head = [
        "| source | parameter sets | values compared | greatest error, of the largest value |",
        "| --- | --- | --- | --- |",
    ]
    Path(os.environ["CLRTOOL_TABLE"]).write_text("\n".join([*head, *rows]) + "\n")


if "CLRTOOL_TABLE" in os.environ:
    atexit.register(_write)
