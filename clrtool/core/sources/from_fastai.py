"""fastai's fits: shares of ``n_epoch * n_iter`` iterations, n_iter in an epoch."""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from clrtool.core.schedules import Cosine, Moved, Phases, Schedule, WithMomentum, in_sequence
from clrtool.core.schedules.checks import check_positive, check_whole
from clrtool.core.sources.registry import source

_PREFIX = "fastai.callback.schedule."


@source(_PREFIX + "fit_one_cycle")
def fit_one_cycle(
    n_epoch: int,
    n_iter: int,
    lr_max: float = 1e-3,
    div: float = 25.0,
    div_final: float = 1e5,
    pct_start: float = 0.25,
    moms: tuple[float, float, float] = (0.95, 0.85, 0.95),
) -> Schedule:
    """Two half cosines, and the momentum against them. ``lr_max`` is the learner's unless it is given."""
    check_positive("div", div)
    check_positive("div_final", div_final)
    rates = _two(n_epoch, n_iter, pct_start, (lr_max / div, lr_max, lr_max / div_final))
    if len(moms) != 3:
        raise ValueError(f"moms must be three numbers, got {moms!r}")
    return WithMomentum(rates, _two(n_epoch, n_iter, pct_start, tuple(moms)))


@source(_PREFIX + "fit_flat_cos")
def fit_flat_cos(
    n_epoch: int, n_iter: int, lr: float = 1e-3, div_final: float = 1e5, pct_start: float = 0.75
) -> Schedule:
    """Flat, then half a cosine."""
    check_positive("div_final", div_final)
    return _two(n_epoch, n_iter, pct_start, (lr, lr, lr / div_final))


@source(_PREFIX + "fit_sgdr")
def fit_sgdr(n_cycles: int, cycle_len: int, n_iter: int, lr_max: float = 1e-3, cycle_mult: int = 2) -> Schedule:
    """Half cosines to 0, each ``cycle_mult`` times as long as the one before; the first takes ``cycle_len`` epochs.

    fastai compares shares of the training in single precision, by which some restarts come an iteration late.
    """
    for name, value in (("n_cycles", n_cycles), ("cycle_len", cycle_len), ("n_iter", n_iter)):
        check_whole(name, value)
    check_whole("cycle_mult", cycle_mult, at_least=2)
    lengths = [cycle_len * cycle_mult**cycle for cycle in range(n_cycles)]
    ends, total = [*accumulate(lengths)], sum(lengths)
    shares = [length / total for length in lengths]
    if sum(shares) != 1:
        raise ValueError(f"fastai refuses {n_cycles} cycles of these lengths: their shares {shares} add up to no 1")
    limits = np.cumsum(np.array(shares, dtype=np.float32), dtype=np.float64).astype(np.float32)
    late = [0, *(int(np.float32(end / total) < limit) for end, limit in zip(ends[:-1], limits, strict=False))]
    falls = [Cosine(base_lr=0.0, max_lr=lr_max, iterations=length * n_iter) for length in lengths]
    parts = [Moved(fall, by=by) if by else fall for fall, by in zip(falls, late, strict=True)]
    return in_sequence(parts, [begin * n_iter + by for begin, by in zip([0, *ends[:-1]], late, strict=True)])


def _two(n_epoch: int, n_iter: int, pct_start: float, values: tuple[float, ...]) -> Phases:
    check_whole("n_epoch", n_epoch)
    check_whole("n_iter", n_iter)
    if not 0 < pct_start < 1:
        raise ValueError(f"pct_start must be above 0 and below 1, got {pct_start!r}")
    total = n_epoch * n_iter
    return Phases(knots=(0, pct_start * total, total), values=values, shapes=("cosine",) * 2, iterations=total)
