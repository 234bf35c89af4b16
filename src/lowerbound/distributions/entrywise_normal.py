"""Normals of independent entries whose location and scale have one shape, and the KL from any
normal to the standard one.

    KL(N(m, s²) ‖ N(0, 1)) = (m² + s² - 1) / 2 - log s

torch broadcasts the arguments of every distribution that is made, and reads the prior's location
and scale. That is nothing beside a large network; beside a small one it is part of what a training
step by a library costs more than one by hand.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal


class EntrywiseNormal(Normal):
    """torch's Normal, for a location and a scale that have one shape and are not looked at.

    Args:
        loc: of any shape.
        scale: of the same shape, positive.

    Example:
        >>> EntrywiseNormal(torch.zeros(3), torch.ones(3)).log_prob(torch.zeros(3))
        tensor([-0.9189, -0.9189, -0.9189])
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = loc, scale
        Distribution.__init__(self, loc.shape, validate_args=False)

    def expand(
        self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: object = None
    ) -> EntrywiseNormal:
        return type(self)(self.loc.expand(batch_shape), self.scale.expand(batch_shape))

    def frozen(self) -> EntrywiseNormal:
        """The same with detached parameters."""
        return type(self)(self.loc.detach(), self.scale.detach())


class UnitNormal(EntrywiseNormal):
    """The same where location and scale are known to be 0 and 1, so that a KL need not read them.

    Example:
        >>> p = UnitNormal(torch.zeros(3), torch.ones(3))
        >>> p.kl_from(EntrywiseNormal(torch.ones(3), torch.full((3,), 2.0)))
        tensor([1.3069, 1.3069, 1.3069])
    """

    def kl_from(self, q: Normal) -> Tensor:
        """KL(q ‖ this), nats, of the shape that both broadcast to."""
        kl: Tensor = 0.5 * (q.loc.square() + q.scale.square() - 1) - q.scale.log()
        batch = self.batch_shape
        is_one_of_its = kl.shape[kl.ndim - len(batch) :] == batch
        return kl if is_one_of_its else kl.expand(torch.broadcast_shapes(kl.shape, batch))
