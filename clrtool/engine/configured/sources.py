"""What a config names beside its data, code and weights, by hashes of the files: read, and never run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from clrtool.engine.models.checkpoint import FIELD, checkpoint_sha256
from clrtool.engine.runtime.code_hash import code_hashes
from clrtool.engine.runtime.imports import places_of_code
from clrtool.files import open_plain, size_of

if TYPE_CHECKING:
    from clrtool.config.schema import RangeTestConfig

WEIGHTS = "model.weights"


def source_hashes(config: RangeTestConfig, folder: Path) -> dict[str, str]:
    """SHA-256 by module of the code that a config in ``folder`` names, and of its weights. What is missing has none."""
    found = code_hashes(config.factories().values(), places_of_code(folder))
    if config.model.weights is not None:
        try:
            with open_plain(Path(config.model.weights)) as file:
                if size_of(file):
                    found[WEIGHTS] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return found
    if config.start is not None and (whole := checkpoint_sha256(Path(config.start))) is not None:
        found[FIELD] = whole
    return found


def changed_sources(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The names of those that have changed, were added or are gone."""
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
