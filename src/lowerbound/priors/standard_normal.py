"""p(z) = N(0, I)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from lowerbound.distributions import UnitNormal
from lowerbound.roles import Context, Posterior, Prior
from lowerbound.shapes import Shape


class StandardNormal(Prior):
    """The standard normal prior (Kingma and Welling 2013, arXiv 1312.6114): no parameters, no
    settings.

    Args:
        z_shape: Z, the event shape of the latent.

    Raises:
        ValueError: a latent size below 1.

    Example:
        >>> from lowerbound.roles import Context
        >>> StandardNormal((2,))(Context()).log_prob(torch.zeros(2))
        tensor(-1.8379)
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, z_shape: Shape) -> None:
        super().__init__(z_shape)
        # buffers only so that the distribution lives on the module's device and in its precision
        self.register_buffer("loc", torch.zeros(self.z_shape), persistent=False)
        self.register_buffer("scale", torch.ones(self.z_shape), persistent=False)

    def forward(self, context: Context, posterior: Posterior | None = None) -> Distribution:
        return Independent(UnitNormal(self.loc, self.scale), len(self.z_shape), validate_args=False)
