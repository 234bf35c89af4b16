"""p(z) = sum_c pi_c N(z; mu_c, diag(s_c^2)), with learned weights, means and scales.

Several clusters in the latent need not be drawn together into one normal. There is no closed-form
KL from a normal to a mixture, so the rate is estimated from the draws, log q(z|x) - log p(z).
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.distributions import Distribution, Independent, Normal

from lowerbound.compatibility import MOVABLE
from lowerbound.distributions import Mixture as MixtureDistribution
from lowerbound.roles import Context, Posterior, Prior
from lowerbound.shapes import Shape

# of the means at the start: some scales apart in many dimensions, and none out of a posterior's
# reach
SPREAD = 0.5


class Mixture(Prior):
    """A mixture of C diagonal normals (Dilokthanakul et al. 2016, arXiv 1611.02648, there within a
    deeper model; as the prior of a plain one in Tomczak and Welling 2018, arXiv 1705.07120).

    It starts with equal weights, means drawn from N(0, 1/4) by torch's global seed, so that no two
    components are alike, and variances of 3/4: in expectation over the means, the mixture has mean
    0 and variance 1 in every entry.

    Args:
        z_shape: Z, the event shape of the latent.
        components: C.

    Raises:
        ValueError: no component, or a latent size below 1.

    Example:
        >>> from lowerbound.roles import Context
        >>> pz = Mixture((3,), components=5)(Context())
        >>> pz.log_prob(torch.zeros(7, 2, 3)).shape, pz.sample((4,)).shape
        (torch.Size([7, 2]), torch.Size([4, 3]))
    """

    capabilities = Prior.capabilities - {MOVABLE}

    def __init__(self, z_shape: Shape, components: int = 10) -> None:
        super().__init__(z_shape)
        if components < 1:
            raise ValueError(f"components is {components}: at least 1 is needed")
        self.components = components
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(SPREAD * torch.randn(components, *self.z_shape))
        self.log_scale = nn.Parameter(
            torch.full((components, *self.z_shape), 0.5 * math.log(1 - SPREAD**2))
        )

    def forward(self, context: Context, posterior: Posterior | None = None) -> Distribution:
        base = Normal(self.loc, self.log_scale.exp(), validate_args=False)
        return MixtureDistribution(
            self.logits, Independent(base, len(self.z_shape), validate_args=False)
        )
