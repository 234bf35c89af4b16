"""Transforms of the data, recorded on the card: what x is, between the file and the model.

A transform maps stored values to values, says what support it leaves, and whether it is random. A random transform is
drawn anew at each presentation in training; validation and test examples are drawn once, by the recorded seed, so that
every estimator and every model sees one x.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.distributions.constraints import Constraint

from lowerbound.supports import BINARY, UNIT, Levels, contains, describe


class Transform(ABC):
    """One step from stored values to x."""

    is_random: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, values: Tensor, generator: Generator | None = None) -> Tensor:
        """Values (n, *X) -> (n, *X); ``generator`` None means torch's global state."""

    @abstractmethod
    def support(self, before: Constraint) -> Constraint:
        """The support after the transform; ValueError where the transform makes no sense on ``before``."""


@dataclass(frozen=True)
class UnitScale(Transform):
    """Integer levels 0..L-1, as stored, onto the grid {0, 1/(L-1), ..., 1}.

    Args:
        levels: L.

    Example:
        >>> UnitScale(256)(torch.tensor([0, 51, 255], dtype=torch.uint8))
        tensor([0.0000, 0.2000, 1.0000])
    """

    levels: int

    def __call__(self, values: Tensor, generator: Generator | None = None) -> Tensor:
        return values.to(torch.float32) / (self.levels - 1)

    def support(self, before: Constraint) -> Constraint:
        return Levels(self.levels)


@dataclass(frozen=True)
class Threshold(Transform):
    """Binary values: 1 where the grey value is above one half.

    Example:
        >>> Threshold()(torch.tensor([0.2, 0.5, 0.9]))
        tensor([0., 0., 1.])
    """

    def __call__(self, values: Tensor, generator: Generator | None = None) -> Tensor:
        return (values > 0.5).to(torch.float32)

    def support(self, before: Constraint) -> Constraint:
        return _binary_from(before)


@dataclass(frozen=True)
class Bernoulli(Transform):
    """Binary values drawn with the grey value as the probability of 1 (Salakhutdinov and Murray 2008).

    In training every presentation draws anew ("dynamic" binarisation).

    Example:
        >>> draw = Bernoulli()(torch.full((1000,), 0.3), torch.Generator().manual_seed(0))
        >>> sorted(set(draw.tolist())), 0.25 < draw.mean() < 0.35
        ([0.0, 1.0], tensor(True))
    """

    is_random: ClassVar[bool] = True

    def __call__(self, values: Tensor, generator: Generator | None = None) -> Tensor:
        return torch.bernoulli(values, generator=generator)

    def support(self, before: Constraint) -> Constraint:
        return _binary_from(before)


def _binary_from(before: Constraint) -> Constraint:
    if not contains(UNIT, before):
        raise ValueError(f"only values in [0, 1] can be binarised, and these lie on {describe(before)}")
    return BINARY
