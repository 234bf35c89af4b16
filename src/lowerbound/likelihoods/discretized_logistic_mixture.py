"""p(x|z) for pictures on L grey levels: mixtures of logistics, each level taking the mass in its
bin.

    p(x_d|z) = sum_c pi_c (sigmoid((t_d + h - m_c) / s_c) - sigmoid((t_d - h - m_c) / s_c)),  t = 2
    x - 1,  h = 1/(L - 1)

with the tails to the first and the last level, and pi, m and s from the network, for each entry d.
In pictures of three channels, (3, H, W), there is one mixture a pixel, whose component is shared by
the channels, and in which the location of green is linear in red and that of blue in red and green
(Kingma et al. 2016, arXiv 1606.04934; Salimans, Karpathy, Chen and Kingma 2017, arXiv 1701.05517).
Unlike a categorical's, its parameters do not grow with L, and near levels are near.

The components start evenly over the scale, at the locations (2 c + 1) / C - 1 with scale 1 / C, so
that no two are alike.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from lowerbound import distributions
from lowerbound.conditions import Condition
from lowerbound.networks import MLP
from lowerbound.roles import Context, Likelihood
from lowerbound.shapes import NetworkFactory, Shape
from lowerbound.supports import Levels


class DiscretizedLogisticMixture(Likelihood):
    """A mixture of discretised logistics on grey levels; of events (3, H, W), the channels of a
    pixel are coupled.

    The coefficients of the coupling are the tanh of what the network gives. The mean of coupled
    channels is taken by conditional means. A mask must hide a coupled pixel in all its channels,
    and leaves it out; others are refused.

    Args:
        z_shape: Z, the event shape of the latent.
        x_shape: X, the event shape of the data.
        levels: L, the number of levels: 17 for the bundled digits, 256 for 8-bit pixels. On the
            command line it follows from the data.
        components: C, how many logistics are mixed.
        network: makes the module Z -> (3 C, *X), log-weights, locations and log-scales; Z -> (10 C,
            H, W) for events (3, H, W), C log-weights and 3 C locations, log-scales and
            coefficients.

    Raises:
        ValueError: fewer than 2 levels, fewer than 1 component, a size below 1, a network that
            returns another shape, or a mask that hides some channels of a coupled pixel.

    Example:
        >>> from lowerbound.roles import Context
        >>> likelihood = DiscretizedLogisticMixture((2,), (3, 8, 8), levels=256)
        >>> px = likelihood(torch.zeros(7, 5, 2), Context())
        >>> likelihood.log_prob(px, torch.zeros(5, 3, 8, 8), None).shape, px.mean.shape
        (torch.Size([7, 5]), torch.Size([7, 5, 3, 8, 8]))
    """

    loc_start: Tensor

    def __init__(
        self,
        z_shape: Shape,
        x_shape: Shape,
        levels: int,
        components: int = 5,
        network: NetworkFactory = MLP,
        condition: Condition = None,
    ) -> None:
        super().__init__(z_shape, x_shape, condition)
        if not isinstance(levels, int):
            raise ValueError(
                f"levels is {levels!r}: say how many grey levels the data have; Normal is for data "
                "without levels"
            )
        if isinstance(components, bool) or not isinstance(components, int) or components < 1:
            raise ValueError(
                f"components is {components!r}: at least 1 is needed, and 5 or 10 are usual"
            )
        self.levels = levels
        self.components = components
        self.support = Levels(levels)
        self.is_coupled = len(self.x_shape) == 3 and self.x_shape[0] == 3
        self.network = network
        self.out_shape = (
            (10 * components, *self.x_shape[1:])
            if self.is_coupled
            else (3 * components, *self.x_shape)
        )
        self.net = network(self.conditioned_input.in_shape, self.out_shape)
        start = (2 * torch.arange(components) + 1) / components - 1
        self.register_buffer("loc_start", start, persistent=False)

    def forward(self, z: Tensor, context: Context) -> Distribution:
        out = self.conditioned_input.through(self.net, z, context.y, self.out_shape)
        # parameters come first, as channels of a picture, and are the last dimension of a
        # distribution's
        out = out.movedim(-len(self.out_shape), -1)
        c = self.components
        if not self.is_coupled:
            logits, loc, log_scale = out.split(c, -1)
            return Independent(
                self._mixture(logits, loc, log_scale), len(self.x_shape), validate_args=False
            )
        logits, others = out.split((c, 9 * c), -1)
        loc, log_scale, coupling = others.unflatten(-1, (3, 3, c)).unbind(-3)
        return distributions.ChannelsFirst(self._mixture(logits, loc, log_scale, coupling.tanh()))

    def _mixture(
        self, logits: Tensor, loc: Tensor, log_scale: Tensor, coupling: Tensor | None = None
    ) -> distributions.DiscretizedLogisticMixture:
        loc, log_scale = self.loc_start + loc, log_scale - math.log(self.components)
        return distributions.DiscretizedLogisticMixture(
            logits, loc, log_scale, self.levels, coupling
        )

    def log_prob(self, px: Distribution, x: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None or not isinstance(px, distributions.ChannelsFirst):
            return super().log_prob(px, x, mask)
        observed = mask.to(torch.bool).broadcast_to(x.shape)
        pixel = observed[..., 0, :, :]
        if bool((observed != pixel.unsqueeze(-3)).any()):
            raise ValueError(
                "the mask hides some channels of a pixel and not others, and "
                "DiscretizedLogisticMixture couples them; hide whole pixels, or use a likelihood "
                "with independent entries (Categorical)"
            )
        log_p = px.by_pixel(torch.where(observed, x, torch.zeros_like(x)))
        return torch.where(pixel, log_p, 0.0).sum((-2, -1))
