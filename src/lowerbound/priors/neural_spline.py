"""p(z) = N(f(z); 0, I) |det df/dz|, with f a chain of couplings: half of z goes through splines,
chosen by networks of the other half.

Each spline is monotonic, made of ratios of quadratics between knots on [-5, 5], and the identity
outside: so one coupling bends what an affine one can only stretch. Density and draw cost one pass
each. There is no closed-form KL to a flow, so the rate is estimated from the draws, log q(z|x) -
log p(z).
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


class NeuralSpline(Prior):
    """A flow of rational-quadratic spline couplings (Durkan, Bekasov, Murray and Papamakarios 2019,
    arXiv 1906.04032). It starts as the standard normal, of which the knots hold all but one draw in
    two million.

    Needs zuko: ``pip install "lowerbound[flows]"``.

    Args:
        z_shape: Z, the event shape of the latent. A latent of one value is bent by splines that
            depend on nothing.
        layers: the number of couplings, which transform every second entry, by turns.
        hidden: units of each hidden layer of a coupling's network.
        bins: pieces of a spline.

    Raises:
        ImportError: zuko is not installed.
        ValueError: no layer, a hidden layer without units, fewer than two bins, or a latent size
            below 1.

    Example:
        >>> from lowerbound.roles import Context
        >>> pz = NeuralSpline((3,))(Context())
        >>> pz.log_prob(torch.zeros(7, 2, 3)).shape, pz.sample((4,)).shape
        (torch.Size([7, 2]), torch.Size([4, 3]))
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self, z_shape: Shape, layers: int = 4, hidden: Sequence[int] = (64, 64), bins: int = 8
    ) -> None:
        super().__init__(z_shape)
        self.layers = layers
        self.hidden = tuple(hidden)
        self.bins = bins
        n = numel(self.z_shape)
        self.couplings = couplings(n, layers, self.hidden, bins)
        # buffers only so that the noise lives on the module's device and in its precision
        self.register_buffer("loc", torch.zeros(n), persistent=False)
        self.register_buffer("scale", torch.ones(n), persistent=False)

    def forward(self, context: Context, posterior: Posterior | None = None) -> Distribution:
        return Flow(Normalising(self.couplings()), self.loc, self.scale, self.z_shape)
