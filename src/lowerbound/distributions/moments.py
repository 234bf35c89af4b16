"""Mean and standard deviation of a distribution, also where no formula for them is known (a flow).

They are then those of draws under a fixed seed, so that the same distribution gives the same
answer.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.utils.seeding import seeded

# an error of sd/16: its variance lies below the 0.01 from which a unit counts as active
MEAN_DRAWS = 256
STDDEV_DRAWS = 1024  # an error of 2 %, where it serves as a scale


def mean(distribution: Distribution) -> Tensor:
    """E[z]; where the distribution has no ``mean`` (a flow), the average of 256 draws under a fixed
    seed.

    It is deterministic either way: the same distribution gives the same answer.

    Example:
        >>> from torch.distributions import Normal
        >>> mean(Normal(3.0, 1.0))
        tensor(3.)
    """
    try:
        return distribution.mean
    except NotImplementedError:
        with seeded(0):
            return distribution.sample((MEAN_DRAWS,)).mean(0)


def stddev(distribution: Distribution) -> Tensor:
    """sd[z], entry by entry; where the distribution has no ``stddev`` (a flow), that of 1,024 draws
    under a fixed seed.

    It is deterministic either way: the same distribution gives the same answer.

    Example:
        >>> from torch.distributions import Normal
        >>> stddev(Normal(3.0, 2.0))
        tensor(2.)
    """
    try:
        return distribution.stddev
    except NotImplementedError:
        with seeded(0):
            return distribution.sample(torch.Size((STDDEV_DRAWS,))).std(0)
