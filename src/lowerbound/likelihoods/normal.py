"""p(x|z) = N(f(z), sigma^2 I): a density on the real line for each entry, with one sigma shared by all.

At fixed f the log-density is largest where sigma^2 is the mean squared residual, so a learned sigma weighs reconstruction
against rate by the data and not by hand (sigma-VAE: Rybkin, Daniilidis and Levine 2021, arXiv 2006.13202).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from lowerbound.networks import MLP
from lowerbound.roles import Context, Likelihood
from lowerbound.shapes import NetworkFactory, Shape, over_leading
from lowerbound.supports import REAL


class Normal(Likelihood):
    """Independent normal entries with one scale.

    Args:
        z_shape: Z, the event shape of the latent.
        x_shape: X, the event shape of the data.
        scale: "shared" learns one log-scale, starting at log 1; a number fixes the standard deviation.
        network: makes the module Z -> X, the mean; it is not squashed, whatever the range of the data.

    Raises:
        ValueError: a scale that is not positive, a size below 1, or a network that returns another shape.

    Example:
        >>> from lowerbound.roles import Context
        >>> likelihood = Normal((2,), (3, 4, 4), scale=0.1)
        >>> px = likelihood(torch.zeros(7, 5, 2), Context())
        >>> likelihood.log_prob(px, torch.zeros(5, 3, 4, 4), None).shape
        torch.Size([7, 5])

    """

    def __init__(
        self, z_shape: Shape, x_shape: Shape, scale: float | Literal["shared"] = "shared", network: NetworkFactory = MLP
    ) -> None:
        super().__init__(z_shape, x_shape)
        if scale != "shared" and not (isinstance(scale, (int, float)) and 0 < scale < math.inf):
            raise ValueError(f"scale is {scale!r}: it must be a positive number, or 'shared' to learn one")
        self.scale = scale
        self.support = REAL
        self.network = network
        self.net = network(self.z_shape, self.x_shape)
        log_scale = torch.tensor(0.0 if scale == "shared" else math.log(scale))
        self.log_scale = nn.Parameter(log_scale, requires_grad=scale == "shared")

    def forward(self, z: Tensor, context: Context) -> Distribution:
        loc = over_leading(self.net, z, self.z_shape, self.x_shape)
        base = torch.distributions.Normal(loc, self.log_scale.exp().expand_as(loc), validate_args=False)
        return Independent(base, len(self.x_shape), validate_args=False)
