"""Rules to integrate a density by. Each fits a kind of density, and is exact to rounding there.

    real_line         smooth on the real line, tails like a normal's: Normal, mixtures, flows
    kinked            a corner at the mean, tails like exp(-|x|): Laplace
    polynomial_tails  smooth on the real line, tails like a power of |x|: StudentT, Cauchy
    unit_interval     smooth on [0, 1]: ContinuousBernoulli
    everywhere        points and weights of your own, as for probabilities of levels or counts

A rule returns points (n, *batch, *event) and their weights, of the same shape: for each entry by
itself. :func:`total_probability` makes the sum over pairs of entries of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from lowerbound.distributions import mean, stddev
from lowerbound.shapes import Shape, numel


def real_line(distribution: Distribution, n: int = 161) -> tuple[Tensor, Tensor]:
    """Points and weights (n, *batch, *event) of the trapezoidal rule ten standard deviations to
    each side of the mean.

    On a normal density its error is far below rounding: exp(-2 pi^2 / h^2) with h = 1/8 of a
    standard deviation.
    """
    centre, scale = mean(distribution), stddev(distribution)
    grid = torch.linspace(-10, 10, n, dtype=centre.dtype).reshape(n, *[1] * centre.ndim)
    return centre + grid * scale, (20 / (n - 1) * scale).expand(n, *centre.shape)


def kinked(distribution: Distribution, n: int = 40) -> tuple[Tensor, Tensor]:
    """Points and weights (n, *batch, *event) of Gauss-Laguerre rules to both sides of the mean,
    where a Laplace bends.

    Exact for a polynomial of degree n - 1 to each side times exp(-|x - mean| sqrt(2) / stddev).
    """
    points, weights = np.polynomial.laguerre.laggauss(n // 2)
    weights = weights * np.exp(points)
    steps, each = everywhere(distribution, np.r_[-points, points], np.r_[weights, weights])
    scale = distribution.stddev / 2**0.5
    return distribution.mean + steps * scale, each * scale


def polynomial_tails(distribution: Distribution, n: int = 64) -> tuple[Tensor, Tensor]:
    """Points and weights (n, *batch, *event) that reach to infinity, for a density with a ``loc``
    and a ``scale`` whose tails fall like a power of |x|.

    With x = loc + scale tan(u) the line is the interval (-pi/2, pi/2), on which the Gauss-Legendre
    rule is taken. A density that falls like |x|^-(df + 1) becomes cos(u)^(df - 1) times what is
    smooth: at whole degrees of freedom df there is nothing left for the rule to stumble on. No mean
    or variance is asked for; a Cauchy has neither.
    """
    base = distribution
    while isinstance(base, Independent):
        base = base.base_dist
    loc, scale = base.loc, base.scale
    points, weights = np.polynomial.legendre.leggauss(n)
    u = 0.5 * np.pi * points
    steps, each = (
        torch.as_tensor(value, dtype=loc.dtype).reshape(-1, *[1] * loc.ndim)
        for value in (np.tan(u), 0.5 * np.pi * weights / np.cos(u) ** 2)
    )
    return loc + scale * steps, scale * each.expand(-1, *loc.shape)


def unit_interval(distribution: Distribution, n: int = 64) -> tuple[Tensor, Tensor]:
    """Points and weights (n, *batch, *event) of the Gauss-Legendre rule on [0, 1], exact to degree
    2n - 1.
    """
    points, weights = np.polynomial.legendre.leggauss(n)
    return everywhere(distribution, 0.5 * (points + 1), 0.5 * weights)


def everywhere(
    distribution: Distribution, points: object, weights: object
) -> tuple[Tensor, Tensor]:
    """The same points and weights (n,) for every entry."""
    shape = distribution.mean.shape
    x, each = (
        torch.as_tensor(values, dtype=distribution.mean.dtype)
        .reshape(-1, *[1] * len(shape))
        .expand(-1, *shape)
        for values in (points, weights)
    )
    return x, each


def total_probability(
    log_prob: Callable[[Tensor], Tensor], rule: tuple[Tensor, Tensor], event: Shape
) -> Tensor:
    """The integral (sum) of a density over events of shape () or (1,), or over all pairs of entries
    for (2,).
    """
    x, weights = rule
    if numel(event) == 1:
        return (
            log_prob(x).exp() * weights.reshape(weights.shape[: weights.ndim - len(event)])
        ).sum(0)
    (first, second), (of_first, of_second) = (values.unbind(-1) for values in (x, weights))
    pairs = torch.stack(torch.broadcast_tensors(first[:, None], second[None]), -1)
    return (log_prob(pairs).exp() * of_first[:, None] * of_second[None]).sum((0, 1))


def moments(distribution: Distribution, rule: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance of both entries of a pair, each (2,): by the formula, or by integration
    where there is none.
    """
    try:
        return distribution.mean.detach(), distribution.variance.detach()
    except NotImplementedError:
        z, weights = rule
        pairs = torch.stack(torch.broadcast_tensors(z[:, None, 0], z[None, :, 1]), -1)
        each = (distribution.log_prob(pairs).exp() * weights[:, None, 0] * weights[None, :, 1])[
            ..., None
        ].detach()
        centre = (each * pairs).sum((0, 1))
        return centre, (each * (pairs - centre) ** 2).sum((0, 1))
