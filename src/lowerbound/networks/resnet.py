"""A residual network between a picture and a vector (He, Zhang, Ren and Sun 2016, arXiv
1603.05027).

At each resolution, blocks x + f(x) with f = (activation, 3x3 convolution) twice; between
resolutions a strided convolution, or its transpose. The second convolution of every block starts at
zero, so that at first the blocks are the identity and depth costs nothing.
"""

from __future__ import annotations

from torch import Tensor, nn

from lowerbound.networks._strided import Block, convolutional, plan
from lowerbound.shapes import Shape


class ResNet(nn.Module):
    """A residual encoder or decoder, by whichever side is a picture; any height, width and number
    of channels.

    Args:
        in_shape: event shape of the input.
        out_shape: event shape of the output.
        width: channels at half the picture's resolution; doubled at each further halving, up to
            four times as many.
        blocks: residual blocks at each resolution below the picture's own.
        depth: how often the picture is halved; by default until its smaller side is at most 7.

    Raises:
        ValueError: neither side is a picture, or it cannot be halved so often, or a width or blocks
            below 1.

    Example:
        >>> import torch
        >>> ResNet((1, 28, 28), (2, 16))(torch.rand(5, 1, 28, 28)).shape
        torch.Size([5, 2, 16])
        >>> ResNet((16,), (1, 28, 28))(torch.rand(5, 16)).shape
        torch.Size([5, 1, 28, 28])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        width: int = 32,
        blocks: int = 1,
        depth: int | None = None,
    ) -> None:
        super().__init__()
        if blocks < 1:
            raise ValueError(f"blocks is {blocks}: at least 1 is needed; Conv has none")
        self.out_shape = out_shape
        self.layers = convolutional(
            plan(in_shape, out_shape, depth),
            width,
            lambda channels: [*(Block(channels) for _ in range(blocks)), nn.SiLU()],
        )

    def forward(self, value: Tensor) -> Tensor:
        result: Tensor = self.layers(value.reshape(len(value), -1))
        return result.reshape(-1, *self.out_shape)
