"""The units of the data: an affine map that lets networks work on values of the order of one, whatever x is measured in.

A network started at random answers to inputs of a hundred with a log-variance of sixty, and exp(30) is the end of
training. So a posterior's network is shown (x - loc) / scale, and a normal likelihood's network says how many scales the
mean lies from loc. Both are fixed from the training data before the first step and saved with the weights. x itself is not
touched: every density, bound and sample is in the units of the data, and no Jacobian is owed.

Data in [0, 1] are left as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lowerbound.shapes import Shape


class Units(nn.Module):
    """An affine map of events of shape X, the identity until it is set.

    Args:
        x_shape: X.

    Example:
        >>> units = Units((2,))
        >>> units.learn(torch.tensor([[0.0, 100.0], [2.0, 300.0]]))
        >>> units.standardised(torch.tensor([1.0, 200.0]))
        tensor([0., 0.])
        >>> units.restored(torch.tensor([1.0, 1.0])).round()
        tensor([  2., 341.])
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, x_shape: Shape) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(x_shape))
        self.register_buffer("scale", torch.ones(x_shape))

    @property
    def are_known(self) -> bool:
        """Whether they have been set."""
        return bool((self.loc != 0).any() or (self.scale != 1).any())

    @property
    def overall(self) -> Tensor:
        """One scale for all entries, the root mean square of theirs: where one scale is to be shared."""
        return self.scale.square().mean().sqrt()

    def learn(self, x: Tensor) -> None:
        """Set mean and standard deviation of each entry from examples (n, *X); an entry that never varies keeps scale 1."""
        spread = x.double().std(0)
        self.loc.copy_(x.double().mean(0))
        self.scale.copy_(torch.where(spread > 0, spread, 1.0))

    def standardised(self, x: Tensor) -> Tensor:
        """(..., *X) in units of the data -> of the order of one.

        Raises:
            ValueError: x does not end in X.
        """
        if x.shape[x.ndim - self.loc.ndim :] != self.loc.shape:
            raise ValueError(f"x of shape {tuple(x.shape)} does not end in the event shape {tuple(self.loc.shape)}")
        return (x - self.loc) / self.scale

    def restored(self, value: Tensor) -> Tensor:
        """The way back."""
        return self.loc + self.scale * value


def learn_units(model: nn.Module, x: Tensor) -> None:
    """Set every unit of a model that has not been set before, from training examples (n, *X)."""
    for module in model.modules():
        if isinstance(module, Units) and not module.are_known:
            module.learn(x)
