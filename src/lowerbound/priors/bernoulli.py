"""p(z) = prod_d p_d^z_d (1 - p_d)^(1 - z_d) for z in {0, 1}: independent bits, fair or with learned
probabilities.
"""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from lowerbound.compatibility import BITS, MOVABLE, Requirement
from lowerbound.roles import Context, Posterior, Prior
from lowerbound.shapes import Shape


class Bernoulli(Prior):
    """Binary codes, for the posterior of the same name (Maddison, Mnih and Teh 2017, arXiv
    1611.00712).

    Args:
        z_shape: Z, the event shape of the latent.
        learned: whether the probabilities are learned; they start at 1/2.

    Raises:
        ValueError: a latent size below 1.

    Example:
        >>> pz = Bernoulli((3,))(Context())
        >>> pz.log_prob(torch.ones(3)).exp()
        tensor(0.1250)
    """

    capabilities = Prior.capabilities - {MOVABLE}
    requirements = MappingProxyType(
        {BITS: Requirement("gives probabilities of bits", "the prior that suits its z")}
    )
    logits: Tensor

    def __init__(self, z_shape: Shape, learned: bool = False) -> None:
        super().__init__(z_shape)
        self.learned = learned
        if learned:
            self.logits = nn.Parameter(torch.zeros(self.z_shape))
        else:
            self.register_buffer("logits", torch.zeros(self.z_shape), persistent=False)

    def forward(self, context: Context, posterior: Posterior | None = None) -> Distribution:
        base = torch.distributions.Bernoulli(logits=self.logits, validate_args=False)
        return Independent(base, len(self.z_shape), validate_args=False)
