"""How deep a parameter lies below the head, by its name: for a learning rate that falls by a factor a block."""

from __future__ import annotations

from collections.abc import Sequence


def depths(names: Sequence[str]) -> dict[str, int]:
    """For each name the number of blocks above it.

    A block is what shares a name up to its first number: ``layer.3``, ``layer1.0``, ``features.7``; without numbers,
    the first part of a name. What is registered after the last block, a norm or a head, has none above it; what comes
    before the first, such as an embedding, has all.

    Args:
        names: of all parameters, as ``named_parameters()`` gives them: in the order in which they were registered.

    >>> depths(["embed.weight", "blocks.0.weight", "blocks.1.weight", "head.weight"])
    {'embed.weight': 3, 'blocks.0.weight': 2, 'blocks.1.weight': 1, 'head.weight': 0}
    """
    shared = _shared([name.split(".")[:-1] for name in names])
    parts = [name.split(".")[shared:] for name in names]
    own = [*map(_block, parts)]
    if not any(own):
        own = [each[0] if len(each) > 1 else "" for each in parts]
    if not any(own):
        return dict.fromkeys(names, 0)
    blocks = [*dict.fromkeys(filter(None, own))]
    has_head = not own[-1]
    below = {block: len(blocks) - 1 - place + has_head for place, block in enumerate(blocks)}
    found, depth, left = dict[str, int](), len(blocks) - 1 + has_head + (not own[0]), [*own]
    for name in names:
        block = left.pop(0)
        depth = below[block] if block else depth if any(left) else 0
        found[name] = depth
    return found


def _block(parts: Sequence[str]) -> str:
    """The beginning of a name up to its first number; nothing without one."""
    place = next((place for place, part in enumerate(parts[:-1]) if part.isdigit()), None)
    return "" if place is None else ".".join(parts[: place + 1])


def _shared(names: Sequence[Sequence[str]]) -> int:
    """How many parts all names begin with."""
    alike = (len({*parts}) == 1 for parts in zip(*names, strict=False))
    return next((place for place, each in enumerate(alike) if not each), min(map(len, names)))
