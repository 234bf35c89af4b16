"""p(x|z) = prod_d p_d^x_d (1 - p_d)^(1 - x_d) for x in {0, 1}, with p = sigmoid(b + f(z)).

The base b is no parameter: before the first step it is set to the logits of the mean training
example, so that the network starts from there and not from p = 1/2 (Burda, Grosse and Salakhutdinov
2015, arXiv 1509.00519, do so by the output's bias). On binarised MNIST that is a distortion of 206
nats at the start instead of 543.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.conditions import Condition
from lowerbound.distributions import IndependentBernoulli, RelativeBernoulli
from lowerbound.networks import MLP
from lowerbound.roles import Context, Likelihood
from lowerbound.shapes import NetworkFactory, Shape
from lowerbound.supports import BINARY

# an entry that was never 1 in training may be so in other data: its logit starts at -6.9, and not
# at -inf
RARE = 1e-3


class Bernoulli(Likelihood):
    """Independent binary entries. Its support is {0, 1}: grey values are refused, since the formula
    is no density there.

    The buffer ``base`` (*X), zero at first, is added to the network's logits. fit sets it before
    the first step of a model whose base is still zero; it is saved with the weights, and neither
    resuming nor training on other data changes it.

    Args:
        z_shape: Z, the event shape of the latent.
        x_shape: X, the event shape of the data.
        network: makes the module Z -> X, the logits relative to the base.

    Raises:
        ValueError: a size below 1, or a network that returns another shape.

    Example:
        >>> from lowerbound.roles import Context
        >>> likelihood = Bernoulli((2,), (1, 8, 8))
        >>> px = likelihood(torch.zeros(3, 5, 2), Context())
        >>> likelihood.log_prob(px, torch.ones(5, 1, 8, 8), None).shape
        torch.Size([3, 5])
        >>> likelihood.prepare(torch.tensor([1.0, 1.0, 0.0]).reshape(3, 1, 1, 1).expand(3, 1, 8, 8))
        >>> likelihood.base[0, 0, :2]  # log of two ones to one zero
        tensor([0.6931, 0.6931])
    """

    base: Tensor

    def __init__(
        self,
        z_shape: Shape,
        x_shape: Shape,
        network: NetworkFactory = MLP,
        condition: Condition = None,
    ) -> None:
        super().__init__(z_shape, x_shape, condition)
        self.support = BINARY
        self.network = network
        self.net = network(self.conditioned_input.in_shape, self.x_shape)
        self.register_buffer("base", torch.zeros(self.x_shape))

    def prepare(self, x: Tensor) -> None:
        # a model that has been trained before keeps what its weights are relative to
        if not self.base.any():
            self.base.copy_(x.mean(0, dtype=torch.float64).clamp(RARE, 1 - RARE).logit())

    def forward(self, z: Tensor, context: Context) -> Distribution:
        relative = self.conditioned_input.through(self.net, z, context.y, self.x_shape)
        return IndependentBernoulli(
            RelativeBernoulli(relative, self.base), len(self.x_shape), validate_args=False
        )
