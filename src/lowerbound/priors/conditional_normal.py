"""p(z|y) = N(mu(y), diag(s(y)^2)), with (mu, log s^2) from one network of y.

Where the prior knows y, z need not tell it: it is left to say what y does not.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch.distributions import Distribution, Independent, Normal

from lowerbound.conditions import ConditionEncoder
from lowerbound.networks import MLP
from lowerbound.roles import Context, Posterior, Prior
from lowerbound.shapes import NetworkFactory, Shape, over_leading


class ConditionalNormal(Prior):
    """A normal with independent entries that depends on y (Sohn, Lee and Yan 2015).

    Args:
        z_shape: Z, the event shape of the latent.
        condition: C for one of C classes, or the shape of real values. On the command line, y
            stands for what the data have.
        network: makes the module Y -> (2, *Z), mean and log-variance; classes are one-hot, Y =
            (C,).

    Raises:
        ValueError: no condition, no class, a size below 1, or a network that returns another shape;
            when called, no y or another than the condition says.

    Example:
        >>> import torch
        >>> pz = ConditionalNormal((2,), condition=10)(Context(y=torch.tensor([3, 7, 7])))
        >>> pz.batch_shape, pz.event_shape, bool((pz.mean[1] == pz.mean[2]).all())
        (torch.Size([3]), torch.Size([2]), True)
    """

    def __init__(
        self, z_shape: Shape, condition: int | Sequence[int], network: NetworkFactory = MLP
    ) -> None:
        super().__init__(z_shape)
        if condition is None:
            raise ValueError(
                "ConditionalNormal is p(z|y): say what y is by condition, or use StandardNormal"
            )
        self.condition = condition
        self.encoder = ConditionEncoder(condition, type(self).__name__)
        self.network = network
        self.net = network(self.encoder.shape, (2, *self.z_shape))

    def forward(self, context: Context, posterior: Posterior | None = None) -> Distribution:
        out = over_leading(
            self.net, self.encoder(context.y), self.encoder.shape, (2, *self.z_shape)
        )
        loc, log_variance = out.unbind(-len(self.z_shape) - 1)
        base = Normal(loc, (0.5 * log_variance).exp(), validate_args=False)
        return Independent(base, len(self.z_shape), validate_args=False)
