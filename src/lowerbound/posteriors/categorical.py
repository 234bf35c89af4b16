"""q(z|x) = prod_i Cat(z_i; softmax(f_i(x))): n independent variables of C categories, each a unit
vector of length C.

A draw has no gradient in f. Training gets one by relaxation, straight through, or by a sum over all
z (:mod:`lowerbound.codes`).
"""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution, Independent

from lowerbound.codes import CodeSampling, capabilities, check_categories, check_draws, draw_codes
from lowerbound.compatibility import VECTORS
from lowerbound.conditions import Condition
from lowerbound.distributions import OneHot, relaxed_logits
from lowerbound.networks import MLP
from lowerbound.roles import Context, LatentSample, Posterior
from lowerbound.shapes import NetworkFactory, Shape, numel
from lowerbound.units import Standardizer


class Categorical(Posterior):
    """Categorical codes (Jang, Gu and Poole 2017, arXiv 1611.01144; Maddison, Mnih and Teh 2017,
    arXiv 1611.00712).

    Args:
        x_shape: X, the event shape of the data.
        z_shape: Z = (n, C), n variables of C categories; (C,) is one.
        draws: how gradients reach q (:mod:`lowerbound.codes`): "gumbel_softmax" draws z between
            codes, and the training loss is no bound; "concrete" is a bound of a relaxed model, for
            objectives that weigh draws; "straight_through" draws codes, with a biased gradient;
            "enumerated" takes all C^n codes, 1,024 at most, and is exact; "sampled" has no
            gradient, for ReweightedWakeSleep. In evaluation codes are codes, and up to 256 are
            enumerated.
        temperature: of the relaxation; near 0 its draws are codes, and their gradient has a large
            variance. 2/3 is that of Maddison et al.
        network: makes the module X -> Z, the logits.

    Raises:
        ValueError: a latent without categories, a temperature that is not positive, more codes than
            can be enumerated, or a network that returns another shape.

    Example:
        >>> import torch
        >>> qz = Categorical((1, 8, 8), (20, 10))(torch.rand(5, 1, 8, 8), Context())
        >>> qz.batch_shape, qz.event_shape
        (torch.Size([5]), torch.Size([20, 10]))
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
        check_categories(self.z_shape)
        check_draws(draws, temperature, self.z_shape[-1] ** numel(self.z_shape[:-1]))
        self.capabilities = capabilities(draws, VECTORS)
        self.draws: CodeSampling = draws
        self.temperature = temperature
        self.standardizer = Standardizer(self.x_shape)
        self.network = network
        self.net = network(self.conditioned_input.in_shape, self.z_shape)

    def forward(self, x: Tensor, context: Context) -> Distribution:
        logits = self.conditioned_input.through(
            self.net, self.standardizer.standardize(x, context.mask), context.y, self.z_shape
        )
        return Independent(
            OneHot(logits=logits, validate_args=False), len(self.z_shape) - 1, validate_args=False
        )

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
