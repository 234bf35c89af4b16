"""p(z) = N(f(z); 0, I) |det df/dz|, with f a chain of couplings: half of z is scaled and shifted by
networks of the other half.

    f: z_a -> z_a,  z_b -> z_b exp(s(z_a)) + t(z_a),    log |det df/dz| = sum s(z_a)

Density and draw cost one pass each, since the inverse needs no other networks. There is no
closed-form KL to a flow, so the rate is estimated from the draws, log q(z|x) - log p(z).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.distributions import Flow
from lowerbound.distributions.bijections import Normalising, couplings
from lowerbound.roles import Context, Posterior, Prior
from lowerbound.shapes import Shape, numel


class RealNVP(Prior):
    """A flow of affine couplings (Dinh, Sohl-Dickstein and Bengio 2017, arXiv 1605.08803); in a
    variational autoencoder, Xu et al. 2019, arXiv 1905.13452. It starts as the standard normal.

    Needs zuko: ``pip install "lowerbound[flows]"``.

    Args:
        z_shape: Z, the event shape of the latent, with n values. A latent of one value leaves
            nothing to couple: p(z) is then a normal with learned location and scale.
        layers: the number of couplings, which transform every second entry, by turns.
        hidden: units of each hidden layer of a coupling's network.

    Raises:
        ImportError: zuko is not installed.
        ValueError: no layer, a hidden layer without units, or a latent size below 1.

    Example:
        >>> from lowerbound.roles import Context
        >>> pz = RealNVP((3,))(Context())
        >>> pz.log_prob(torch.zeros(7, 2, 3)).shape, pz.sample((4,)).shape
        (torch.Size([7, 2]), torch.Size([4, 3]))
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, z_shape: Shape, layers: int = 6, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__(z_shape)
        self.layers = layers
        self.hidden = tuple(hidden)
        n = numel(self.z_shape)
        self.couplings = couplings(n, layers, self.hidden)
        # buffers only so that the noise lives on the module's device and in its precision
        self.register_buffer("loc", torch.zeros(n), persistent=False)
        self.register_buffer("scale", torch.ones(n), persistent=False)

    def forward(self, context: Context, posterior: Posterior | None = None) -> Distribution:
        return Flow(Normalising(self.couplings()), self.loc, self.scale, self.z_shape)
