"""A convolutional network between two pictures, one as large as the other or halved some times; it
has no linear layer.

So the value at one place of the small picture comes from, and goes to, that neighbourhood of the
large one alone: what a latent that is itself a picture is for, (64, 7, 7) for pictures of 28 x 28
pixels.
"""

from __future__ import annotations

from torch import Tensor, nn

from lowerbound.networks._strided import Block
from lowerbound.shapes import Shape, numel


class FullyConv(nn.Module):
    """Strided convolutions down, then residual blocks; or residual blocks, then transposed
    convolutions up (Shelhamer, Long and Darrell 2017, arXiv 1605.06211; laid out as in van den
    Oord, Vinyals and Kavukcuoglu 2017, arXiv 1711.00937, with kernels of 3 x 3 pixels, which halve
    any size).

    The last two sizes of a shape are height and width, and whatever stands before them counts as
    channels.

    Args:
        in_shape: event shape of the input, (..., H, W).
        out_shape: event shape of the output, (..., h, w), where (h, w) is (H, W), or what is left
            of it when it is halved once or more, rounded up: 28 -> 14 -> 7; or the other way
            around.
        width: channels of every layer.
        blocks: residual blocks, at the size of the smaller picture.

    Raises:
        ValueError: a side that is no picture, sizes of which neither is the other halved, or a
            width or blocks below 1.

    Example:
        >>> import torch
        >>> FullyConv((1, 28, 28), (64, 7, 7), width=8)(torch.rand(5, 1, 28, 28)).shape
        torch.Size([5, 64, 7, 7])
        >>> FullyConv((64, 7, 7), (1, 28, 28), width=8)(torch.rand(5, 64, 7, 7)).shape
        torch.Size([5, 1, 28, 28])
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, width: int = 64, blocks: int = 2) -> None:
        super().__init__()
        for name, value in (("width", width), ("blocks", blocks)):
            if value < 1:
                raise ValueError(f"{name} is {value}: at least 1 is needed")
        if min(len(in_shape), len(out_shape)) < 2:
            raise ValueError(
                "a fully convolutional network maps a picture (..., H, W) to a picture, not "
                f"{in_shape} to {out_shape}; use Conv between a picture and a vector, or a latent "
                "shape (channels, h, w)"
            )
        shrinks = in_shape[-2] * in_shape[-1] >= out_shape[-2] * out_shape[-1]
        sizes = _halvings(
            *(in_shape[-2:], out_shape[-2:]) if shrinks else (out_shape[-2:], in_shape[-2:])
        )
        self.in_shape, self.out_shape = in_shape, out_shape
        entering, leaving = numel(in_shape[:-2]), numel(out_shape[:-2])
        body: list[nn.Module] = [*(Block(width) for _ in range(blocks)), nn.SiLU()]
        layers: list[nn.Module] = []
        if shrinks:
            for channels in [entering, *[width] * (len(sizes) - 1)][: len(sizes) - 1]:
                layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.SiLU()]
            first = [] if layers else [nn.Conv2d(entering, width, 3, padding=1)]
            # the blocks begin with an activation of their own
            layers = [*layers[:-1], *first, *body, nn.Conv2d(width, leaving, 1)]
        else:
            layers = [nn.Conv2d(entering, width, 3, padding=1), *body]
            for i, (height, breadth) in enumerate(reversed(sizes[:-1])):
                after = leaving if i == len(sizes) - 2 else width
                even = (int(height % 2 == 0), int(breadth % 2 == 0))
                up = nn.ConvTranspose2d(width, after, 3, stride=2, padding=1, output_padding=even)
                layers += [up] if after == leaving and i == len(sizes) - 2 else [up, nn.SiLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, value: Tensor) -> Tensor:
        result: Tensor = self.layers(value.reshape(len(value), -1, *self.in_shape[-2:]))
        return result.reshape(-1, *self.out_shape)


def _halvings(large: Shape, small: Shape) -> list[tuple[int, int]]:
    """The sizes from the large picture to the small one, both included.

    Raises:
        ValueError: the one is not the other halved.
    """
    sizes = [(large[0], large[1])]
    while sizes[-1] != (small[0], small[1]):
        height, width = sizes[-1]
        sizes.append((-(-height // 2), -(-width // 2)))
        if sizes[-1] == sizes[-2]:
            fitting = ", ".join(f"{h} x {w}" for h, w in sizes[1:-1])
            raise ValueError(
                f"a picture of {large[0]} x {large[1]} is halved to "
                f"{fitting or 'nothing smaller'}, and not to {small[0]} x {small[1]}; give the "
                "latent one of these sizes"
            )
    return sizes
