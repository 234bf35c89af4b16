"""p(x|z) = prod_d p_d^x_d (1 - p_d)^(1 - x_d) for x in {0, 1}, with p = sigmoid(f(z))."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from lowerbound.networks import MLP
from lowerbound.roles import Context, Likelihood
from lowerbound.shapes import NetworkFactory, Shape, over_leading
from lowerbound.supports import BINARY


class Bernoulli(Likelihood):
    """Independent binary entries. Its support is {0, 1}: grey values are refused, since the formula is no density there.

    Args:
        z_shape: Z, the event shape of the latent.
        x_shape: X, the event shape of the data.
        network: makes the module Z -> X, the logits.

    Raises:
        ValueError: a size below 1, or a network that returns another shape.

    Example:
        >>> from lowerbound.roles import Context
        >>> likelihood = Bernoulli((2,), (1, 8, 8))
        >>> px = likelihood(torch.zeros(3, 5, 2), Context())
        >>> likelihood.log_prob(px, torch.ones(5, 1, 8, 8), None).shape
        torch.Size([3, 5])
    """

    def __init__(self, z_shape: Shape, x_shape: Shape, network: NetworkFactory = MLP) -> None:
        super().__init__(z_shape, x_shape)
        self.support = BINARY
        self.network = network
        self.net = network(self.z_shape, self.x_shape)

    def forward(self, z: Tensor, context: Context) -> Distribution:
        logits = over_leading(self.net, z, self.z_shape, self.x_shape)
        base = torch.distributions.Bernoulli(logits=logits, validate_args=False)
        return Independent(base, len(self.x_shape), validate_args=False)
