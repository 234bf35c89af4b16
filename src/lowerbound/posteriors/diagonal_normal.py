"""q(z|x) = N(mu(x), diag(sigma(x)^2)), with (mu, log sigma^2) from one network.

A draw is z = mu + exp(log sigma^2 / 2) * eps with eps ~ N(0, I): the reparameterisation, through
which gradients reach mu and sigma.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution, Independent

from lowerbound.compatibility import FACTORISED
from lowerbound.conditions import Condition
from lowerbound.distributions import EntrywiseNormal
from lowerbound.networks import MLP
from lowerbound.roles import Context, Posterior
from lowerbound.shapes import NetworkFactory, Shape
from lowerbound.units import Standardizer


class DiagonalNormal(Posterior):
    """A normal with independent entries (Kingma and Welling 2013, arXiv 1312.6114).

    Args:
        x_shape: X, the event shape of the data.
        z_shape: Z, the event shape of the latent.
        network: makes the module X -> (2, *Z), mean and log-variance.

    Raises:
        ValueError: a size below 1, or a network that returns another shape.

    Example:
        >>> import torch
        >>> from lowerbound.roles import Context
        >>> qz = DiagonalNormal((1, 8, 8), (16,))(torch.rand(5, 1, 8, 8), Context())
        >>> qz.batch_shape, qz.event_shape
        (torch.Size([5]), torch.Size([16]))
    """

    capabilities = Posterior.capabilities | {FACTORISED}

    def __init__(
        self,
        x_shape: Shape,
        z_shape: Shape,
        network: NetworkFactory = MLP,
        condition: Condition = None,
    ) -> None:
        super().__init__(x_shape, z_shape, condition)
        self.standardizer = Standardizer(self.x_shape)
        self.network = network
        self.net = network(self.conditioned_input.in_shape, (2, *self.z_shape))

    def forward(self, x: Tensor, context: Context) -> Distribution:
        out = self.conditioned_input.through(
            self.net, self.standardizer.standardize(x, context.mask), context.y, (2, *self.z_shape)
        )
        loc, log_variance = out.unbind(-len(self.z_shape) - 1)
        return Independent(
            EntrywiseNormal(loc, (0.5 * log_variance).exp()), len(self.z_shape), validate_args=False
        )
