"""The configs that come with clrtool: where they lie."""

from __future__ import annotations

from pathlib import Path

# In the source tree configs/ stands beside the package; in a wheel it is inside.
_FOLDERS = (Path(__file__).parent.parent / "configs", Path(__file__).parent.parent.parent / "configs")


def shipped_configs() -> dict[str, Path]:
    """The configs that come with clrtool, by name."""
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))} if folder else {}
