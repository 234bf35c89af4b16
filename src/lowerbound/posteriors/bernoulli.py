"""q(z|x) = prod_d p_d^z_d (1 - p_d)^(1 - z_d) for z in {0, 1}, with p = sigmoid(f(x)): independent
bits.

A draw has no gradient in f. Training gets one by relaxation, straight through, or by a sum over all
z (:mod:`lowerbound.codes`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from lowerbound.codes import CodeSampling, capabilities, check_draws, draw_codes
from lowerbound.compatibility import BITS, FACTORISED
from lowerbound.conditions import Condition
from lowerbound.distributions import relaxed_logits
from lowerbound.networks import MLP
from lowerbound.roles import Context, LatentSample, Posterior
from lowerbound.shapes import NetworkFactory, Shape, numel
from lowerbound.units import Standardizer


class Bernoulli(Posterior):
    """Binary codes (Maddison, Mnih and Teh 2017, arXiv 1611.00712).

    Args:
        x_shape: X, the event shape of the data.
        z_shape: Z, with n bits.
        draws: how gradients reach q (:mod:`lowerbound.codes`): "gumbel_softmax" draws z between
            codes, and the training loss is no bound; "concrete" is a bound of a relaxed model, for
            objectives that weigh draws; "straight_through" draws codes, with a biased gradient;
            "enumerated" takes all 2^n codes, 1,024 at most, and is exact; "sampled" has no
            gradient, for ReweightedWakeSleep. In evaluation codes are codes, and up to 256 are
            enumerated.
        temperature: of the relaxation; near 0 its draws are codes, and their gradient has a large
            variance.
        network: makes the module X -> Z, the logits.

    Raises:
        ValueError: a size below 1, a temperature that is not positive, more codes than can be
            enumerated, or a network that returns another shape.

    Example:
        >>> from lowerbound.roles import Context
        >>> qz = Bernoulli((1, 8, 8), (16,))(torch.rand(5, 1, 8, 8), Context())
        >>> qz.batch_shape, qz.event_shape
        (torch.Size([5]), torch.Size([16]))
    """

    def __init__(
        self,
        x_shape: Shape,
        z_shape: Shape,
        draws: CodeSampling = "gumbel_softmax",
        temperature: float = 2 / 3,
        network: NetworkFactory = MLP,
        condition: Condition = None,
    ) -> None:
        super().__init__(x_shape, z_shape, condition)
        check_draws(draws, temperature, 2 ** numel(self.z_shape))
        self.capabilities = capabilities(draws, BITS, FACTORISED)
        self.draws: CodeSampling = draws
        self.temperature = temperature
        self.standardizer = Standardizer(self.x_shape)
        self.network = network
        self.net = network(self.conditioned_input.in_shape, self.z_shape)

    def forward(self, x: Tensor, context: Context) -> Distribution:
        logits = self.conditioned_input.through(
            self.net, self.standardizer.standardize(x, context.mask), context.y, self.z_shape
        )
        base = torch.distributions.Bernoulli(logits=logits, validate_args=False)
        return Independent(base, len(self.z_shape), validate_args=False)

    def relaxed(self, distribution: Distribution) -> Distribution:
        return (
            relaxed_logits(distribution, self.temperature)
            if self.draws == "concrete"
            else distribution
        )

    def draw_latent(
        self, qz: Distribution, samples: int, reparameterised: bool, training: bool
    ) -> LatentSample:
        return draw_codes(
            qz, samples, self.draws, self.temperature, reparameterised and training, not training
        )
