"""q(z|x) = N(mu(x), L(x) L(x)'): a normal with full covariance, its mean and Cholesky factor from
one network.

A draw is z = mu + L eps with eps ~ N(0, I). The diagonal of L is exp(log sigma^2 / 2), hence
positive.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.conditions import Condition
from lowerbound.distributions import FullNormal as FullNormalDistribution
from lowerbound.networks import MLP
from lowerbound.roles import Context, Posterior
from lowerbound.shapes import NetworkFactory, Shape, numel
from lowerbound.units import Standardizer


class FullNormal(Posterior):
    """A multivariate normal with mean and covariance given by the network.

    Args:
        x_shape: X, the event shape of the data.
        z_shape: Z, the event shape of the latent, with n values.
        network: makes the module X -> (2 n + n (n - 1) / 2,): mean, log-variances, and the factor
            below its diagonal.

    Raises:
        ValueError: a size below 1, or a network that returns another shape.

    Example:
        >>> from lowerbound.roles import Context
        >>> qz = FullNormal((4,), (3,))(torch.rand(5, 4), Context())
        >>> qz.batch_shape, qz.event_shape
        (torch.Size([5]), torch.Size([3]))
    """

    def __init__(
        self,
        x_shape: Shape,
        z_shape: Shape,
        network: NetworkFactory = MLP,
        condition: Condition = None,
    ) -> None:
        super().__init__(x_shape, z_shape, condition)
        self.n = numel(self.z_shape)
        self.out_shape = (2 * self.n + self.n * (self.n - 1) // 2,)
        self.standardizer = Standardizer(self.x_shape)
        self.network = network
        self.net = network(self.conditioned_input.in_shape, self.out_shape)

    def forward(self, x: Tensor, context: Context) -> Distribution:
        out = self.conditioned_input.through(
            self.net, self.standardizer.standardize(x, context.mask), context.y, self.out_shape
        )
        loc, log_variance, below = out.split([self.n, self.n, self.out_shape[0] - 2 * self.n], -1)
        rows, columns = torch.tril_indices(self.n, self.n, -1, device=out.device)
        scale_tril = torch.diag_embed((0.5 * log_variance).exp())
        scale_tril[..., rows, columns] = below
        return FullNormalDistribution(
            loc.reshape(*loc.shape[:-1], *self.z_shape), scale_tril, self.z_shape
        )
