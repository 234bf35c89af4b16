"""The binary cross-entropy score sum_d x_d log p_d + (1 - x_d) log(1 - p_d) for grey x in [0, 1].

This is *not* a log-density: at p = 1/2 its exponential integrates to 1/2 over [0, 1] in each
dimension, not to 1. Many tutorials train with it; it is offered by name to repeat them, and what it
gives is reported as a cross-entropy and never as a log-likelihood. The continuous Bernoulli
(Loaiza-Ganem and Cunningham 2019, arXiv 1907.06845) is the density that it is mistaken for.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.distributions import Distribution

from lowerbound.conditions import Condition
from lowerbound.distributions import IndependentBernoulli, RelativeBernoulli
from lowerbound.networks import MLP
from lowerbound.roles import Context, Likelihood
from lowerbound.shapes import NetworkFactory, Shape
from lowerbound.supports import UNIT


class BinaryCrossEntropy(Likelihood):
    """The tutorials' reconstruction score; evaluation reports ``cross_entropy``, and no ELBO or
    likelihood.

    Args:
        z_shape: Z, the event shape of the latent.
        x_shape: X, the event shape of the data.
        network: makes the module Z -> X, the logits.

    Raises:
        ValueError: a size below 1, or a network that returns another shape.

    Example:
        >>> import torch
        >>> from lowerbound.roles import Context
        >>> score = BinaryCrossEntropy((2,), (4,))
        >>> px = score(torch.zeros(1, 5, 2), Context())
        >>> score.log_prob(px, torch.rand(5, 4), None).shape, score.is_density
        (torch.Size([1, 5]), False)
    """

    is_density: ClassVar[bool] = False

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
        # torch's Bernoulli scores by cross-entropy, and with validation off it takes grey values
        return IndependentBernoulli(
            RelativeBernoulli(logits), len(self.x_shape), validate_args=False
        )
