"""fastai's ``fit_one_cycle`` and ``fit_flat_cos``: shares of ``n_epoch * n_iter`` iterations, n_iter in an epoch."""

from __future__ import annotations

from clrtool.core.schedules import Phases, Schedule, WithMomentum
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


def _two(n_epoch: int, n_iter: int, pct_start: float, values: tuple[float, ...]) -> Phases:
    check_whole("n_epoch", n_epoch)
    check_whole("n_iter", n_iter)
    if not 0 < pct_start < 1:
        raise ValueError(f"pct_start must be above 0 and below 1, got {pct_start!r}")
    total = n_epoch * n_iter
    return Phases(knots=(0, pct_start * total, total), values=values, shapes=("cosine",) * 2, iterations=total)
