"""p(x|z) = N(f(z), diag(sigma^2)): a density on the real line for each entry.

At fixed f the log-density is largest where sigma^2 is the mean squared residual over the entries
that share it, so a learned sigma weighs reconstruction against rate by the data and not by hand
(sigma-VAE: Rybkin, Daniilidis and Levine 2021, arXiv 2006.13202).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from lowerbound import distributions
from lowerbound.conditions import Condition
from lowerbound.distributions import standardised
from lowerbound.likelihoods._scale import LearnedScale, Spread
from lowerbound.networks import MLP
from lowerbound.roles import Context, Likelihood
from lowerbound.shapes import NetworkFactory, Shape, numel
from lowerbound.supports import REAL
from lowerbound.units import Standardizer

# A log-scale has three nats to go from 1 to the 0.05 of sharp pictures in [0, 1], and after that
# must follow the residual as it falls. Learned as it is, at a learning rate of 1e-3 that takes some
# 3,000 steps and it lags behind; learned in tenths, it keeps up (benchmarks/notebook_conv.py
# compares it with its optimum).
PACE = 10.0


class Normal(Likelihood):
    """Independent normal entries.

    Args:
        z_shape: Z, the event shape of the latent.
        x_shape: X, the event shape of the data.
        scale: a number fixes the standard deviation; "shared" learns one log-scale, "per_dimension"
            one for each entry of x, both starting at the spread of the data, or at 1 for data in
            [0, 1]; "network" lets the network give the log-scale of each entry.
        network: makes the module Z -> X, the mean, or Z -> (2, *X), mean and log-scale, where scale
            is "network". The mean is not squashed, whatever the range of the data.

    Raises:
        ValueError: a scale that is not positive, a size below 1, or a network that returns another
            shape.

    Example:
        >>> from lowerbound.roles import Context
        >>> likelihood = Normal((2,), (3, 4, 4), scale=0.1)
        >>> px = likelihood(torch.zeros(7, 5, 2), Context())
        >>> likelihood.log_prob(px, torch.zeros(5, 3, 4, 4), None).shape
        torch.Size([7, 5])
    """

    def __init__(
        self,
        z_shape: Shape,
        x_shape: Shape,
        scale: Spread = "shared",
        network: NetworkFactory = MLP,
        condition: Condition = None,
    ) -> None:
        super().__init__(z_shape, x_shape, condition)
        self.scale = scale
        self.learned_scale = LearnedScale(scale, self.x_shape, PACE)
        self.support = REAL
        self.standardizer = Standardizer(self.x_shape)
        self.network = network
        self.net = network(self.conditioned_input.in_shape, self.learned_scale.out_shape)

    @property
    def scaled_entries(self) -> Sequence[int]:
        n = numel(self.x_shape)
        is_own = self.scale in ("per_dimension", "network") or (self.scale == "shared" and n == 1)
        return range(n) if is_own else ()

    @property
    def _log_start(self) -> Tensor:
        """The log-scale of the data, at which learning starts, () or X."""
        spread = self.standardizer.overall if self.scale == "shared" else self.standardizer.scale
        return spread.log().to(self.standardizer.like.dtype)

    @property
    def log_scale(self) -> Tensor:
        """The logarithm of a scale that does not come from the network, () or X, in units of the
        data.
        """
        return self.learned_scale.log_scale(self._log_start)

    def forward(self, z: Tensor, context: Context) -> Distribution:
        out = self.conditioned_input.through(self.net, z, context.y, self.learned_scale.out_shape)
        loc, log_scale = self.learned_scale(out, self._log_start)
        log_scale = log_scale.expand_as(loc)
        units = self.standardizer
        if units.is_double:
            u = torch.distributions.Normal(
                loc, (log_scale - units.log_scale).exp(), validate_args=False
            )
            base: Distribution = distributions.Rescaled(u, units.loc, units.scale)
        else:
            base = torch.distributions.Normal(
                self.standardizer.unstandardize(loc), log_scale.exp(), validate_args=False
            )
        return Independent(base, len(self.x_shape), validate_args=False)

    def log_prob(self, px: Distribution, x: Tensor, mask: Tensor | None) -> Tensor:
        units = self.standardizer
        if not units.is_double:
            return super().log_prob(px, x, mask)
        u = units.standardize(x, mask)
        return super().log_prob(standardised(px), u, mask) - units.log_jacobian(mask)
