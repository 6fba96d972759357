"""``lr_policy`` of a Caffe solver, with ``triangular`` and ``triangular2`` of the paper's Appendix A."""

from __future__ import annotations

from collections.abc import Sequence

from clrtool.core import schedules
from clrtool.core.schedules import Cyclical, Exponential, Inverse, Piecewise, Polynomial, Sigmoid
from clrtool.core.sources.registry import source


@source("caffe.fixed")
def fixed(base_lr: float) -> Piecewise:
    return schedules.fixed(base_lr)


@source("caffe.step")
def step(base_lr: float, gamma: float, stepsize: int) -> Exponential:
    return schedules.step(base_lr, gamma, stepsize)


@source("caffe.exp")
def exp(base_lr: float, gamma: float) -> Exponential:
    return schedules.exponential(base_lr, gamma)


@source("caffe.inv")
def inv(base_lr: float, gamma: float, power: float) -> Inverse:
    return schedules.inv(base_lr, gamma, power)


@source("caffe.multistep")
def multistep(base_lr: float, gamma: float, stepvalue: Sequence[int]) -> Piecewise:
    return schedules.multistep(base_lr, gamma, stepvalue)


@source("caffe.poly")
def poly(base_lr: float, power: float, max_iter: int) -> Polynomial:
    return schedules.polynomial(0.0, base_lr, max_iter, power)


@source("caffe.sigmoid")
def sigmoid(base_lr: float, gamma: float, stepsize: int) -> Sigmoid:
    return schedules.sigmoid(base_lr, gamma, stepsize)


@source("caffe.triangular")
def triangular(base_lr: float, max_lr: float, stepsize: int) -> Cyclical:
    return schedules.triangular(base_lr, max_lr, stepsize)


@source("caffe.triangular2")
def triangular2(base_lr: float, max_lr: float, stepsize: int) -> Cyclical:
    return schedules.triangular2(base_lr, max_lr, stepsize)
