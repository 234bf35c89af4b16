"""q(z|x): z_0 = mu(x) + sigma(x) eps, then z_t = z_{t-1} + u_t tanh(w_t'z_{t-1} + b_t), everything
from one network of x.

Each map pushes draws away from a plane, or towards it, by

    log |det dz_t/dz_{t-1}| = log(1 + (1 - tanh^2(w_t'z_{t-1} + b_t)) w_t'u_t)

which is finite since w_t'u_t > -1 is made to hold. The inverse has no formula: log q(z|x) is known
along the draws alone.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution

from lowerbound.compatibility import EVALUABLE
from lowerbound.conditions import Condition
from lowerbound.distributions import Flow
from lowerbound.distributions.bijections import Planar as PlanarMaps
from lowerbound.distributions.bijections import check_sizes
from lowerbound.networks import MLP
from lowerbound.roles import Context, Posterior
from lowerbound.shapes import NetworkFactory, Shape, numel
from lowerbound.units import Standardizer


class Planar(Posterior):
    """A planar flow (Rezende and Mohamed 2015, arXiv 1505.05770).

    The paper keeps w'u > -1 by adding to u, along w, what makes w'u into softplus(w'u) - 1; here
    softplus is shifted so that u = 0 stays 0: a map without a push does nothing, also where w is
    small. Its mean has no formula: ``encode`` and ``reconstruct`` average draws. What evaluates
    q(z|x) elsewhere than at its draws is refused: path gradients, a VampPrior, annealing from q.

    Args:
        x_shape: X, the event shape of the data.
        z_shape: Z, the event shape of the latent, with n values.
        layers: T, the number of maps.
        network: makes the module X -> (2 n + T (2 n + 1),): mean, log-variances, and u, w and b of
            every map.

    Raises:
        ValueError: no layer, a size below 1, or a network that returns another shape.

    Example:
        >>> import torch
        >>> qz = Planar((1, 8, 8), (16,))(torch.rand(5, 1, 8, 8), Context())
        >>> z = qz.rsample((7,))
        >>> qz.log_prob(z).shape
        torch.Size([7, 5])
    """

    capabilities = Posterior.capabilities - {EVALUABLE}

    def __init__(
        self,
        x_shape: Shape,
        z_shape: Shape,
        layers: int = 8,
        network: NetworkFactory = MLP,
        condition: Condition = None,
    ) -> None:
        super().__init__(x_shape, z_shape, condition)
        check_sizes(layers, ())
        self.layers = layers
        self.n = numel(self.z_shape)
        self.out_shape = (2 * self.n + layers * (2 * self.n + 1),)
        self.standardizer = Standardizer(self.x_shape)
        self.network = network
        self.net = network(self.conditioned_input.in_shape, self.out_shape)

    def forward(self, x: Tensor, context: Context) -> Distribution:
        out = self.conditioned_input.through(
            self.net, self.standardizer.standardize(x, context.mask), context.y, self.out_shape
        )
        loc, log_variance, maps = out.split([self.n, self.n, self.out_shape[0] - 2 * self.n], -1)
        each = maps.unflatten(-1, (self.layers, -1)).movedim(-2, 0)
        u, w, b = each.split([self.n, self.n, 1], -1)
        return Flow(PlanarMaps(u, w, b[..., 0]), loc, (0.5 * log_variance).exp(), self.z_shape)
