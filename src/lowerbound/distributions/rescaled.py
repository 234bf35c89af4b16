"""Entries in other units: x = loc + scale u, u from a distribution of its own.

    log p(x) = log p_u((x - loc) / scale) - log scale

A value far from zero, such as a time in seconds, keeps too few digits in float32 for a density:
near 1.7e9 its steps are 128 s. So u is worked out in the precision of loc and scale, float64, and
the density is evaluated at u, which is of the order of one.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent
from torch.distributions.constraints import Constraint


class Rescaled(Distribution):
    """Entries loc + scale u that are independent, on the real line.

    Args:
        base: of u, entries, batch (..., *X).
        loc: (*X).
        scale: (*X), positive. Mean, draws and deviation have the precision of loc and scale;
            log-densities have that of the base.

    Example:
        >>> u, one = torch.distributions.Normal(torch.zeros(2), 1.0), torch.ones(()).double()
        >>> seconds = Rescaled(u, 1.7e9 * one, 60 * one)
        >>> seconds.log_prob(torch.tensor([1.7e9, 1.7e9 + 60], dtype=torch.float64))
        tensor([-5.0133, -5.5133])
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    def __init__(self, base: Distribution, loc: Tensor, scale: Tensor) -> None:
        self.base, self.loc, self.scale = base, loc, scale
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    # a class attribute in torch, and here of the base
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether the base has."""
        return self.base.has_rsample

    @property
    def support(self) -> Constraint:
        return torch.distributions.constraints.real

    @property
    def mean(self) -> Tensor:
        return self.loc + self.scale * self.base.mean

    @property
    def variance(self) -> Tensor:
        return self.scale.square() * self.base.variance

    # torch says Size alone
    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        return self.loc + self.scale * self.base.sample(torch.Size(sample_shape))

    # torch says Size alone
    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        return self.loc + self.scale * self.base.rsample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        like = self.base.mean
        u = ((value - self.loc) / self.scale).to(like.dtype)
        return self.base.log_prob(u) - self.scale.log().to(like.dtype)


def standardised(px: Distribution) -> Distribution:
    """The distribution of u, (..., event X), of an event of rescaled entries.

    Example:
        >>> base, one = torch.distributions.Normal(torch.zeros(2), 1.0), torch.ones(2)
        >>> standardised(Independent(Rescaled(base, 5 * one, one), 1)).mean
        tensor([0., 0.])
    """
    assert isinstance(px, Independent)  # what the likelihoods in these units give
    assert isinstance(px.base_dist, Rescaled)
    return Independent(px.base_dist.base, px.reinterpreted_batch_ndims, validate_args=False)
