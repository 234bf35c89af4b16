"""A convolutional network between a picture and a vector: strided convolutions down, transposed
ones up.
"""

from __future__ import annotations

from torch import Tensor, nn

from lowerbound.networks._strided import convolutional, plan
from lowerbound.shapes import Shape


class Conv(nn.Module):
    """A convolutional encoder or decoder, by whichever side is a picture; any height, width and
    number of channels.

    Args:
        in_shape: event shape of the input.
        out_shape: event shape of the output.
        width: channels at half the picture's resolution; doubled at each further halving, up to
            four times as many.
        depth: how often the picture is halved; by default until its smaller side is at most 7.

    Raises:
        ValueError: neither side is a picture, or it cannot be halved so often, or a width below 1.

    Example:
        >>> import torch
        >>> Conv((3, 37, 53), (2, 16))(torch.rand(5, 3, 37, 53)).shape
        torch.Size([5, 2, 16])
        >>> Conv((16,), (3, 37, 53))(torch.rand(5, 16)).shape
        torch.Size([5, 3, 37, 53])
    """

    def __init__(
        self, in_shape: Shape, out_shape: Shape, width: int = 32, depth: int | None = None
    ) -> None:
        super().__init__()
        self.out_shape = out_shape
        self.layers = convolutional(
            plan(in_shape, out_shape, depth), width, lambda channels: [nn.SiLU()]
        )

    def forward(self, value: Tensor) -> Tensor:
        result: Tensor = self.layers(value.reshape(len(value), -1))
        return result.reshape(-1, *self.out_shape)
