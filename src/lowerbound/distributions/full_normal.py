"""A multivariate normal whose event has any shape: torch's, on the flattened event."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, constraints
from torch.distributions.constraints import Constraint

from lowerbound.shapes import Shape, numel


class FullNormal(Distribution):
    """N(loc, L L') over events of shape Z with n values.

    Args:
        loc: (..., *Z).
        scale_tril: L, (..., n, n), lower triangular with a positive diagonal.
        event_shape: Z.

    Example:
        >>> pz = FullNormal(torch.zeros(2, 3), torch.eye(6), (2, 3))
        >>> pz.log_prob(torch.zeros(7, 2, 3)).shape
        torch.Size([7])
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    support = constraints.real
    has_rsample = True

    def __init__(self, loc: Tensor, scale_tril: Tensor, event_shape: Shape) -> None:
        leading = loc.shape[: loc.ndim - len(event_shape)]
        flat_loc = loc.reshape(*leading, numel(event_shape))
        self.flat = MultivariateNormal(flat_loc, scale_tril=scale_tril, validate_args=False)
        super().__init__(self.flat.batch_shape, torch.Size(event_shape), validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.flat.mean.reshape(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        return self.flat.variance.reshape(self.batch_shape + self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        leading = value.shape[: value.ndim - len(self.event_shape)]
        log_p: Tensor = self.flat.log_prob(value.reshape(*leading, -1))
        return log_p

    # torch says Size alone
    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        z = self.flat.rsample(torch.Size(sample_shape))
        return z.reshape(z.shape[:-1] + self.event_shape)


def as_multivariate(distribution: Distribution) -> MultivariateNormal | None:
    """The distribution as a multivariate normal over the flattened event; None where it is no
    normal.

    Example:
        >>> as_multivariate(Independent(Normal(torch.zeros(2, 3), torch.ones(2, 3)), 2)).event_shape
        torch.Size([6])
    """
    if isinstance(distribution, FullNormal):
        return distribution.flat
    if isinstance(distribution, MultivariateNormal):
        return distribution
    if isinstance(distribution, Independent) and isinstance(distribution.base_dist, Normal):
        leading = distribution.batch_shape
        scale = distribution.base_dist.stddev.reshape(*leading, -1)
        loc = distribution.base_dist.mean.reshape(*leading, -1)
        return MultivariateNormal(loc, scale_tril=torch.diag_embed(scale), validate_args=False)
    return None
