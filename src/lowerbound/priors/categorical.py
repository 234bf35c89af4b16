"""p(z) = prod_i Cat(z_i; pi_i): n independent variables of C categories, uniform or with learned
probabilities.
"""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from lowerbound.codes import check_categories
from lowerbound.compatibility import MOVABLE, VECTORS, Requirement
from lowerbound.distributions import OneHot
from lowerbound.roles import Context, Posterior, Prior
from lowerbound.shapes import Shape


class Categorical(Prior):
    """Categorical codes, for the posterior of the same name (Jang, Gu and Poole 2017, arXiv
    1611.01144).

    Args:
        z_shape: Z = (n, C), n variables of C categories; (C,) is one.
        learned: whether the probabilities are learned; they start uniform.

    Raises:
        ValueError: a latent without categories.

    Example:
        >>> pz = Categorical((3, 4))(Context())
        >>> pz.sample().shape, pz.log_prob(pz.sample((7,))).exp() * 4**3
        (torch.Size([3, 4]), tensor([1., 1., 1., 1., 1., 1., 1.]))
    """

    capabilities = Prior.capabilities - {MOVABLE}
    requirements = MappingProxyType(
        {VECTORS: Requirement("gives probabilities of unit vectors", "the prior that suits its z")}
    )
    logits: Tensor

    def __init__(self, z_shape: Shape, learned: bool = False) -> None:
        super().__init__(z_shape)
        check_categories(self.z_shape)
        self.learned = learned
        if learned:
            self.logits = nn.Parameter(torch.zeros(self.z_shape))
        else:
            self.register_buffer("logits", torch.zeros(self.z_shape), persistent=False)

    def forward(self, context: Context, posterior: Posterior | None = None) -> Distribution:
        return Independent(
            OneHot(logits=self.logits, validate_args=False),
            len(self.z_shape) - 1,
            validate_args=False,
        )
