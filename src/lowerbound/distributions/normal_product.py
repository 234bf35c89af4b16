"""N(m_1, S_1) N(m_2, S_2) is, up to a constant in z, again a normal density: S^-1 = S_1^-1 + S_2^-1
and S^-1 m = S_1^-1 m_1 + S_2^-1 m_2. Precisions add.
"""

from __future__ import annotations

import torch
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal
from torch.nn.functional import logsigmoid

from lowerbound.distributions.full_normal import FullNormal, as_multivariate


def normal_product(first: Distribution, second: Distribution) -> Distribution:
    """The normalised product of two normal densities.

    Args:
        first: over events (*Z); diagonal, or of any covariance.
        second: likewise, of a batch shape that broadcasts with the first's.

    Raises:
        ValueError: one of them is no normal.

    Example:
        >>> wide, narrow = (Independent(Normal(torch.zeros(3), s), 1) for s in (3.0, 4.0))
        >>> normal_product(wide, narrow).stddev  # 1 / sqrt(1/9 + 1/16)
        tensor([2.4000, 2.4000, 2.4000])
    """
    if _is_diagonal(first) and _is_diagonal(second):
        (m_1, s_1), (m_2, s_2) = ((factor.mean, factor.stddev) for factor in (first, second))
        # s_1^2 / (s_1^2 + s_2^2) by logarithms: squares of scales leave the range of float32 long
        # before the scales do
        log_odds = 2 * (s_1.log() - s_2.log())
        loc = m_1 + torch.sigmoid(log_odds) * (m_2 - m_1)
        base = Normal(loc, (0.5 * logsigmoid(log_odds)).exp() * s_2, validate_args=False)
        return Independent(base, len(first.event_shape), validate_args=False)
    one, other = as_multivariate(first), as_multivariate(second)
    if one is None or other is None:
        stranger = first if one is None else second
        raise ValueError(
            "inference top down multiplies two normal densities at each level, and one is "
            f"{type(stranger).__name__}; use DiagonalNormal or FullNormal for posteriors and "
            "conditionals, or inference bottom_up"
        )
    p_1, p_2 = one.precision_matrix, other.precision_matrix
    weighted = (p_1 @ one.mean[..., None])[..., 0] + (p_2 @ other.mean[..., None])[..., 0]
    covariance = torch.cholesky_inverse(torch.linalg.cholesky(p_1 + p_2))
    loc = (covariance @ weighted[..., None])[..., 0]
    shape = first.event_shape
    return FullNormal(
        loc.reshape(*loc.shape[:-1], *shape), torch.linalg.cholesky(covariance), tuple(shape)
    )


def detached_normal(distribution: Distribution) -> Distribution:
    """A normal without the gradient of its parameters."""
    if _is_diagonal(distribution):
        base = Normal(distribution.mean.detach(), distribution.stddev.detach(), validate_args=False)
        return Independent(base, len(distribution.event_shape), validate_args=False)
    full = as_multivariate(distribution)
    assert full is not None  # its product has been taken
    return MultivariateNormal(
        full.loc.detach(), scale_tril=full.scale_tril.detach(), validate_args=False
    )


def _is_diagonal(distribution: Distribution) -> bool:
    return isinstance(distribution, Independent) and isinstance(distribution.base_dist, Normal)
