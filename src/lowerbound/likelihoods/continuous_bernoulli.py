"""p(x|z) = prod_d C(p_d) p_d^x_d (1 - p_d)^(1 - x_d) for x in [0, 1], with p = sigmoid(f(z)).

C(p) = 2 artanh(1 - 2p) / (1 - 2p), and 2 at p = 1/2, is what binary cross-entropy lacks to be a
density on [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from lowerbound.conditions import Condition
from lowerbound.networks import MLP
from lowerbound.roles import Context, Likelihood
from lowerbound.shapes import NetworkFactory, Shape
from lowerbound.supports import UNIT


class ContinuousBernoulli(Likelihood):
    """Independent entries in [0, 1] (Loaiza-Ganem and Cunningham 2019, arXiv 1907.06845).

    Args:
        z_shape: Z, the event shape of the latent.
        x_shape: X, the event shape of the data.
        network: makes the module Z -> X, the logits.

    Raises:
        ValueError: a size below 1, or a network that returns another shape.

    Example:
        >>> from lowerbound.roles import Context
        >>> likelihood = ContinuousBernoulli((2,), (1, 8, 8))
        >>> px = likelihood(torch.zeros(3, 5, 2), Context())
        >>> likelihood.log_prob(px, torch.rand(5, 1, 8, 8), None).shape
        torch.Size([3, 5])
    """

    def __init__(
        self,
        z_shape: Shape,
        x_shape: Shape,
        network: NetworkFactory = MLP,
        condition: Condition = None,
    ) -> None:
        super().__init__(z_shape, x_shape, condition)
        self.support = UNIT
        self.network = network
        self.net = network(self.conditioned_input.in_shape, self.x_shape)

    def forward(self, z: Tensor, context: Context) -> Distribution:
        logits = self.conditioned_input.through(self.net, z, context.y, self.x_shape)
        base = torch.distributions.ContinuousBernoulli(logits=logits, validate_args=False)
        return Independent(base, len(self.x_shape), validate_args=False)
