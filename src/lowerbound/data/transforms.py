"""Transforms of the data, recorded on the card: what x is, between the file and the model.

A transform maps stored values to values, says what support it leaves, and whether it is random. A
random transform is drawn anew at each presentation in training; validation and test examples are
drawn once, by the recorded seed, so that every estimator and every model sees one x. A transform
for training only (augmentation) is left out wherever something is measured.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.distributions.constraints import Constraint

from lowerbound.shapes import Shape
from lowerbound.supports import BINARY, UNIT, Levels, contains, describe


class Transform(ABC):
    """One step from stored values to x.

    Attributes:
        is_random: whether it is drawn anew at each presentation.
        training_only: whether it is left out wherever something is measured.
        is_traced: whether a compiled step may take it into its graph: it asks torch alone, keeps
            nothing between calls, and is simple, since it becomes a part of all that reads x:
            dequantisation took the compiler minutes.
    """

    is_random: ClassVar[bool] = False
    training_only: ClassVar[bool] = False
    is_traced: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, values: Tensor, generator: Generator | None = None) -> Tensor:
        """Values (n, *X) -> (n, *X); ``generator`` None means torch's global state."""

    @abstractmethod
    def support(self, before: Constraint) -> Constraint:
        """The support after the transform; ValueError where the transform makes no sense on
        ``before``.
        """

    # most transforms act on each value alone
    def check_shape(self, event_shape: Shape) -> None:  # noqa: B027
        """Raise ValueError where the transform makes no sense on examples of this shape."""


@dataclass(frozen=True)
class UnitScale(Transform):
    """Integer levels 0..L-1, as stored, onto the grid {0, 1/(L-1), ..., 1}.

    Args:
        levels: L.

    Example:
        >>> UnitScale(256)(torch.tensor([0, 51, 255], dtype=torch.uint8))
        tensor([0.0000, 0.2000, 1.0000])
    """

    is_traced: ClassVar[bool] = True
    levels: int

    def __call__(self, values: Tensor, generator: Generator | None = None) -> Tensor:
        return (
            values / (self.levels - 1)
            if values.dtype == torch.uint8
            else values.to(torch.float32) / (self.levels - 1)
        )

    def support(self, before: Constraint) -> Constraint:
        return Levels(self.levels)


@dataclass(frozen=True)
class Threshold(Transform):
    """Binary values: 1 where the grey value is above one half.

    Example:
        >>> Threshold()(torch.tensor([0.2, 0.5, 0.9]))
        tensor([0., 0., 1.])
    """

    is_traced: ClassVar[bool] = True

    def __call__(self, values: Tensor, generator: Generator | None = None) -> Tensor:
        return (values > 0.5).to(torch.float32)

    def support(self, before: Constraint) -> Constraint:
        return _binary_from(before)


@dataclass(frozen=True)
class Bernoulli(Transform):
    """Binary values drawn with the grey value as the probability of 1 (Salakhutdinov and Murray
    2008).

    In training every presentation draws anew ("dynamic" binarisation).

    Example:
        >>> draw = Bernoulli()(torch.full((1000,), 0.3), torch.Generator().manual_seed(0))
        >>> sorted(set(draw.tolist())), 0.25 < draw.mean() < 0.35
        ([0.0, 1.0], tensor(True))
    """

    is_traced: ClassVar[bool] = True
    is_random: ClassVar[bool] = True

    def __call__(self, values: Tensor, generator: Generator | None = None) -> Tensor:
        if generator is not None:  # what is drawn once, by a recorded seed, stays what it was
            return torch.bernoulli(values, generator=generator)
        # the same distribution, to 2^-24, in a third of the time on a CPU
        drawn = torch.rand_like(values)
        return drawn.lt_(values)  # in place: without an array of bits between

    def support(self, before: Constraint) -> Constraint:
        return _binary_from(before)


@dataclass(frozen=True)
class Dequantise(Transform):
    """Levels v in 0..L-1 with uniform noise, x = (v + u) / L in [0, 1), so that a density can be
    fitted to them.

    What a density p(x) on [0, 1]^D says of the levels is the mass of the cell that they stand for,
    [v/L, (v+1)/L)^D:

        P(v) = integral of p over the cell = L^-D E_u[p((v + u) / L)],  u uniform on [0, 1)^D
        log P(v) = -D log L + log E_u[p(x)] >= -D log L + E_u[log p(x)],  by Jensen's inequality

    so -E_u[log p(x)] + D log L, in nats, bounds -log P(v) from above: D log L is the Jacobian of v
    -> x. The levels then cost at most (nll + D log L) / (D log 2) bits per dimension (Theis, van
    den Oord and Bethge 2015, arXiv 1511.01844); the uniform density costs log2 L, as it must. A
    density with mass outside [0, 1]^D, such as a normal, gives a P that sums to less than 1, so the
    bound holds and is merely looser.

    It acts on the grid {0, 1/(L-1), ..., 1} on which levels are kept, and finds v again from it.

    Args:
        levels: L.

    Example:
        >>> x = Dequantise(2)(torch.tensor([0.0, 1.0]))
        >>> bool(0 <= x[0] < 0.5 <= x[1] < 1)
        True
    """

    is_random: ClassVar[bool] = True
    levels: int

    @classmethod
    def of(cls, before: Constraint) -> Dequantise:
        """The transform for values on this support; ValueError where it is no grid of levels."""
        if not isinstance(before, Levels):
            raise ValueError(
                "only data on grey levels can be dequantised, and these lie on "
                f"{describe(before)}; leave dequantize out, or say how many levels integers have "
                "(levels=256, --data.levels 256)"
            )
        return cls(before.count)

    def __call__(self, values: Tensor, generator: Generator | None = None) -> Tensor:
        v = (values * (self.levels - 1)).round()
        x = (v + torch.rand(v.shape, generator=generator, dtype=v.dtype)) / self.levels
        # v + u can round up to L in float32, and x = 1 would lie in no cell
        return x.clamp(max=1 - 2.0**-24)

    def support(self, before: Constraint) -> Constraint:
        if Dequantise.of(before) != self:
            raise ValueError(
                f"values on {describe(before)} cannot be dequantised as {self.levels} levels"
            )
        return UNIT


@dataclass(frozen=True)
class Flip(Transform):
    """Each picture mirrored left to right with probability 1/2, in training only.

    Example:
        >>> turned = Flip()(torch.tensor([[[0.0, 1.0]]]).expand(50, 1, 2))
        >>> turned.unique(dim=0).tolist()
        [[[0.0, 1.0]], [[1.0, 0.0]]]
    """

    is_random: ClassVar[bool] = True
    training_only: ClassVar[bool] = True

    def __call__(self, values: Tensor, generator: Generator | None = None) -> Tensor:
        turned = torch.rand(len(values), generator=generator, dtype=torch.float32) < 0.5
        return torch.where(turned.reshape(-1, *[1] * (values.ndim - 1)), values.flip(-1), values)

    def support(self, before: Constraint) -> Constraint:
        return before

    def check_shape(self, event_shape: Shape) -> None:
        _check_picture("flip", event_shape)


@dataclass(frozen=True)
class Shift(Transform):
    """Each picture moved by whole pixels, -s..s down and -s..s to the right, all equally likely, in
    training only.

    What comes in at an edge repeats that edge, so that every value stays one of the picture's own,
    whatever the support, and no frame is drawn around pictures whose background is not black.

    Args:
        pixels: s.

    Example:
        >>> moved = Shift(1)(torch.arange(9.0).reshape(1, 3, 3).expand(1000, 3, 3))
        >>> [0.0, 0.0, 1.0] in moved[:, 0].tolist(), moved[:, 1, 1].unique().tolist()
        (True, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    """

    is_random: ClassVar[bool] = True
    training_only: ClassVar[bool] = True
    pixels: int

    def __post_init__(self) -> None:
        if not isinstance(self.pixels, int) or self.pixels < 1:
            raise ValueError(
                f"shift is {self.pixels}: it must be a whole number of pixels, at least 1 (0 for "
                "none)"
            )

    def __call__(self, values: Tensor, generator: Generator | None = None) -> Tensor:
        height, width = values.shape[-2:]
        planes = values.reshape(len(values), -1, height, width)
        down, right = torch.randint(
            -self.pixels, self.pixels + 1, (2, len(values), 1), generator=generator
        )
        rows = (torch.arange(height) - down).clamp(0, height - 1)
        columns = (torch.arange(width) - right).clamp(0, width - 1)
        example, plane = torch.arange(len(planes)), torch.arange(planes.shape[1])
        moved = planes[
            example[:, None, None, None],
            plane[:, None, None],
            rows[:, None, :, None],
            columns[:, None, None],
        ]
        return moved.reshape(values.shape)

    def support(self, before: Constraint) -> Constraint:
        return before

    def check_shape(self, event_shape: Shape) -> None:
        _check_picture("shift", event_shape)
        if self.pixels >= min(event_shape[-2:]):
            raise ValueError(
                f"shift is {self.pixels}, which would move pictures of "
                f"{event_shape[-2]}x{event_shape[-1]} out of sight; at most "
                f"{min(event_shape[-2:]) - 1} keeps a part of each"
            )


def _check_picture(option: str, event_shape: Shape) -> None:
    if len(event_shape) not in (2, 3):
        raise ValueError(
            f"{option} is for pictures, (H, W) or (C, H, W), and these examples have shape "
            f"{event_shape}"
        )


def _binary_from(before: Constraint) -> Constraint:
    if not contains(UNIT, before):
        raise ValueError(
            f"only values in [0, 1] can be binarised, and these lie on {describe(before)}"
        )
    return BINARY
