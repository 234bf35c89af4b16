"""Networks between a picture and a vector: which side is the picture, and how it is halved down to
a few pixels.

A picture's event shape is (..., H, W): the last two sizes are height and width, and whatever stands
before them counts as channels: (H, W), (C, H, W), or (L, C, H, W) for L logits of each entry.
Halving gives ceil(n / 2), so that any size can be halved, and the sizes met on the way down are
those that the way up must reproduce: nothing is cropped or padded to a convenient size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from lowerbound.shapes import Shape, numel

# once the smaller side is at most this, halving stops: 28 -> 14 -> 7, 32 -> 16 -> 8 -> 4
SMALLEST = 7


@dataclass(frozen=True)
class Plan:
    """How a convolutional network between a picture and a vector is laid out.

    Args:
        is_encoder: True from the picture to the vector, False from the vector to the picture.
        channels: of the picture.
        sizes: (H, W) at every resolution, the picture's own first.
        vector: the number of values on the other side.
    """

    is_encoder: bool
    channels: int
    sizes: tuple[tuple[int, int], ...]
    vector: int


def plan(in_shape: Shape, out_shape: Shape, depth: int | None = None) -> Plan:
    """The layout of a network from one event shape to another, one of which is a picture.

    The picture is the side with three or more dimensions; where both or neither have them, the one
    with more pixels.

    Args:
        in_shape: event shape of the input.
        out_shape: event shape of the output.
        depth: how many times the picture is halved; by default once, and on until its smaller side
            is at most 7.

    Raises:
        ValueError: neither side is a picture, or it cannot be halved so often.

    Example:
        >>> plan((1, 28, 28), (2, 16))
        Plan(is_encoder=True, channels=1, sizes=((28, 28), (14, 14), (7, 7)), vector=32)
        >>> plan((16,), (3, 37, 53)).sizes
        ((37, 53), (19, 27), (10, 14), (5, 7))
    """
    is_encoder = _pixels(in_shape) >= _pixels(out_shape)
    picture, other = (in_shape, out_shape) if is_encoder else (out_shape, in_shape)
    if len(picture) < 2 or max(picture[-2:]) == 1:
        raise ValueError(
            "a convolutional network maps a picture (..., H, W) to a vector or back, not "
            f"{in_shape} to {out_shape}; use MLP for data that are no pictures"
        )
    sizes = [(picture[-2], picture[-1])]
    while len(sizes) == 1 or min(sizes[-1]) > SMALLEST if depth is None else len(sizes) <= depth:
        if max(sizes[-1]) == 1:
            raise ValueError(
                f"depth is {depth}, but a picture of {sizes[0]} can be halved {len(sizes) - 1} "
                "times only"
            )
        height, width = sizes[-1]
        sizes.append((-(-height // 2), -(-width // 2)))
    if len(sizes) == 1:
        raise ValueError(
            f"depth is {depth}: a picture must be halved at least once; use MLP for no convolutions"
        )
    return Plan(is_encoder, numel(picture[:-2]), tuple(sizes), numel(other))


def convolutional(
    layout: Plan, width: int, body: Callable[[int], list[nn.Module]]
) -> nn.Sequential:
    """The network of a plan: (N, values of the one side) -> (N, values of the other), flat on both
    sides.

    Args:
        layout: the plan.
        width: channels at half the picture's resolution; doubled at each further halving, up to
            four times as many. At the picture's own resolution there are only its own channels:
            convolutions there would be most of the cost.
        body: what stands at each resolution below the picture's own, for a number of channels.

    Raises:
        ValueError: a width below 1.
    """
    if width < 1:
        raise ValueError(f"width is {width}: at least 1 channel is needed")
    widths = (layout.channels, *(width * min(2**i, 4) for i in range(len(layout.sizes) - 1)))
    smallest = (widths[-1], *layout.sizes[-1])
    if layout.is_encoder:
        layers: list[nn.Module] = [nn.Unflatten(1, (layout.channels, *layout.sizes[0]))]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), *body(after)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(numel(smallest), layout.vector))
    layers = [nn.Linear(layout.vector, numel(smallest)), nn.Unflatten(1, smallest)]
    for (after, before), size in reversed(list(zip(pairwise(widths), layout.sizes, strict=False))):
        even = (int(size[0] % 2 == 0), int(size[1] % 2 == 0))
        layers += [
            *body(before),
            nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=even),
        ]
    return nn.Sequential(*layers, nn.Flatten())


class Block(nn.Module):
    """x + conv(act(conv(act(x)))), the channels unchanged.

    Args:
        channels: of the input and the output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(second.weight)
        self.layers = nn.Sequential(
            nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.SiLU(), second
        )

    def forward(self, value: Tensor) -> Tensor:
        result: Tensor = value + self.layers(value)
        return result


def _pixels(shape: Shape) -> tuple[bool, int]:
    pixels = shape[-2] * shape[-1] if len(shape) >= 2 else 0
    return len(shape) >= 3 and pixels > 1, pixels
