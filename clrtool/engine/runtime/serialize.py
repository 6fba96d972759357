"""Plain values and tensors as bytes, for a file or another process; no code is run to read them."""

from __future__ import annotations

import io
from typing import Any

import torch


def to_bytes(values: Any) -> bytes:
    """Values in types that :func:`from_bytes` reads."""
    content = io.BytesIO()
    torch.save(values, content)
    return content.getvalue()


def from_bytes(content: bytes) -> Any:
    """What :func:`to_bytes` was given, on the CPU."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
