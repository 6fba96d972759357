"""The Python of the README, to be run where its names are made."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def snippet(word):
    """The one block of Python that holds a word."""
    found = [block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if word in block]
    assert len(found) == 1, f"{len(found)} blocks hold {word}"
    return found[0]
