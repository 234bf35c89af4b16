"""p(x|z) = N(f(z), sigma^2 I) with the shared sigma at its maximum-likelihood value instead of
learned by gradient.

For residuals r = x - f(z), sum_d log N(r_d; 0, sigma^2) is largest at sigma^2 = mean(r^2). In
training that value is taken from the batch itself, with its gradient, so that the loss is D/2 log
mean(r^2) up to a constant. A density cannot depend on the x it scores, so outside training sigma^2
is the running mean of the batches' values, and the model is an ordinary one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from lowerbound.conditions import Condition
from lowerbound.distributions import Rescaled, standardised
from lowerbound.networks import MLP
from lowerbound.parallel.shards import all_reduce_sum
from lowerbound.roles import Context, Likelihood
from lowerbound.shapes import NetworkFactory, Shape
from lowerbound.supports import REAL
from lowerbound.units import Standardizer


class OptimalNormal(Likelihood):
    """Independent normal entries with the optimal shared scale (sigma-VAE: Rybkin, Daniilidis,
    Levine 2021, 2006.13202).

    Args:
        z_shape: Z, the event shape of the latent.
        x_shape: X, the event shape of the data.
        momentum: weight of a new batch in the running mean of sigma^2; 0.01 averages over about a
            hundred batches.
        network: makes the module Z -> X, the mean.

    Raises:
        ValueError: a momentum outside (0, 1], a size below 1, or a network that returns another
            shape.

    Example:
        >>> from lowerbound.roles import Context
        >>> likelihood = OptimalNormal((2,), (4,))
        >>> px = likelihood(torch.zeros(7, 5, 2), Context())
        >>> likelihood.log_prob(px, torch.ones(5, 4), None).shape
        torch.Size([7, 5])
    """

    def __init__(
        self,
        z_shape: Shape,
        x_shape: Shape,
        momentum: float = 0.01,
        network: NetworkFactory = MLP,
        condition: Condition = None,
    ) -> None:
        super().__init__(z_shape, x_shape, condition)
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum is {momentum}: it must lie above 0 and at most at 1")
        self.momentum = momentum
        self.support = REAL
        self.standardizer = Standardizer(self.x_shape)
        self.network = network
        self.net = network(self.conditioned_input.in_shape, self.x_shape)
        self.register_buffer("variance", torch.tensor(1.0))
        self.register_buffer("batches", torch.tensor(0.0))

    batch_statistics = True
    variance: Tensor
    batches: Tensor

    def forward(self, z: Tensor, context: Context) -> Distribution:
        loc = self.conditioned_input.through(self.net, z, context.y, self.x_shape)
        if self.standardizer.is_double:
            return self._rescaled(loc, self.variance.sqrt())
        loc = self.standardizer.unstandardize(loc)
        base = Normal(loc, self.variance.sqrt().expand_as(loc), validate_args=False)
        return Independent(base, len(self.x_shape), validate_args=False)

    def log_prob(self, px: Distribution, x: Tensor, mask: Tensor | None) -> Tensor:
        units = self.standardizer
        if not self.training:
            return self._log_prob(px, x, mask)
        if units.is_double:
            loc = standardised(px).mean
            residuals = units.scale.to(loc) * (units.standardize(x, mask) - loc)
        else:
            residuals = torch.nan_to_num(x) - px.mean
        squares = residuals.pow(2)
        observed = torch.ones_like(squares) if mask is None else mask.to(squares).expand_as(squares)
        optimal = all_reduce_sum((squares * observed).sum()) / all_reduce_sum(observed.sum())
        with torch.no_grad():
            self.batches += 1
            # the first batches are averaged evenly, so that no trace of the starting value remains
            self.variance.lerp_(
                optimal.to(self.variance), torch.clamp(1 / self.batches, min=self.momentum)
            )
        if units.is_double:
            return self._log_prob(self._rescaled(loc, optimal.sqrt()), x, mask)
        base = Normal(px.mean, optimal.sqrt().expand_as(px.mean), validate_args=False)
        return super().log_prob(Independent(base, len(self.x_shape), validate_args=False), x, mask)

    def _rescaled(self, loc: Tensor, sigma: Tensor) -> Distribution:
        """Normals at standardised means (..., *X), of one deviation in units of the data, ()."""
        units = self.standardizer
        u = Normal(loc, (sigma / units.scale.to(loc)).expand_as(loc), validate_args=False)
        base = Rescaled(u, units.loc, units.scale)
        return Independent(base, len(self.x_shape), validate_args=False)

    def _log_prob(self, px: Distribution, x: Tensor, mask: Tensor | None) -> Tensor:
        """Log p(x|z), whatever the mode: in standardised units where x is float64."""
        units = self.standardizer
        if not units.is_double:
            return super().log_prob(px, x, mask)
        u = units.standardize(x, mask)
        return super().log_prob(standardised(px), u, mask) - units.log_jacobian(mask)
