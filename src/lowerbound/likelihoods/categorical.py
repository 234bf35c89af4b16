"""P(x_d = l/(L-1) | z) = softmax(f_d(z))_l: a probability for each of L grey levels, independent
over entries.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution, Independent

from lowerbound.conditions import Condition
from lowerbound.distributions import LevelCategorical
from lowerbound.networks import MLP
from lowerbound.roles import Context, Likelihood
from lowerbound.shapes import NetworkFactory, Shape
from lowerbound.supports import Levels


class Categorical(Likelihood):
    """A categorical distribution over grey levels on the unit grid: no order or smoothness is
    assumed.

    Args:
        z_shape: Z, the event shape of the latent.
        x_shape: X, the event shape of the data.
        levels: L, the number of levels: 17 for the bundled digits, 256 for 8-bit pixels. On the
            command line it follows from the data.
        network: makes the module Z -> (L, *X), the logits.

    Raises:
        ValueError: fewer than 2 levels, a size below 1, or a network that returns another shape.

    Example:
        >>> import torch
        >>> from lowerbound.roles import Context
        >>> likelihood = Categorical((2,), (1, 8, 8), levels=17)
        >>> likelihood(torch.zeros(3, 5, 2), Context()).mean.shape
        torch.Size([3, 5, 1, 8, 8])
    """

    def __init__(
        self,
        z_shape: Shape,
        x_shape: Shape,
        levels: int,
        network: NetworkFactory = MLP,
        condition: Condition = None,
    ) -> None:
        super().__init__(z_shape, x_shape, condition)
        if not isinstance(levels, int):
            raise ValueError(
                f"levels is {levels!r}: say how many grey levels the data have; Normal is for data "
                "without levels"
            )
        self.levels = levels
        self.support = Levels(levels)
        self.network = network
        self.net = network(self.conditioned_input.in_shape, (levels, *self.x_shape))

    def forward(self, z: Tensor, context: Context) -> Distribution:
        logits = self.conditioned_input.through(
            self.net, z, context.y, (self.levels, *self.x_shape)
        )
        # levels come first, as channels of a picture, and are the last dimension of a
        # distribution's parameters
        by_entry = logits.movedim(-len(self.x_shape) - 1, -1)
        return Independent(LevelCategorical(by_entry), len(self.x_shape), validate_args=False)
