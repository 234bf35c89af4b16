"""Shapes: the one vocabulary in which parts agree on sizes.

An *event shape* is the shape of one value of a random variable: X for data x, Z for a latent z, and
``()`` for a scalar. Everything in front of it is a leading (batch) dimension: a latent z has shape
(K, B, *Z), with K samples of B examples.

A network maps one event shape to another, (N, *in_shape) -> (N, *out_shape), and knows nothing of K
and B; :func:`over_leading` is the only place where leading dimensions are folded into N and
unfolded again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from torch import Tensor, nn

Shape: TypeAlias = tuple[int, ...]

NetworkFactory: TypeAlias = Callable[[Shape, Shape], nn.Module]
"""(in_shape, out_shape) -> a module mapping (N, *in_shape) to (N, *out_shape). A part calls it with
the sizes it needs, so that no size is written twice."""


def as_shape(value: int | Sequence[int], name: str = "shape") -> Shape:
    """The shape as a tuple of positive integers; a bare integer n means (n,).

    Raises:
        ValueError: a size is below 1.
        TypeError: a size is not an integer.

    Example:
        >>> as_shape(16), as_shape([3, 32, 32]), as_shape(())
        ((16,), (3, 32, 32), ())
    """
    sizes = (value,) if isinstance(value, int) else tuple(value)
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"{name} must hold integers, not {size!r}")
        if size < 1:
            raise ValueError(f"{name} is {tuple(sizes)}: every size must be at least 1")
    return sizes


def numel(shape: Shape) -> int:
    """The number of values in one event; 1 for the empty shape.

    Example:
        >>> numel((3, 32, 32)), numel(())
        (3072, 1)
    """
    return math.prod(shape)


def over_leading(network: nn.Module, value: Tensor, in_shape: Shape, out_shape: Shape) -> Tensor:
    """Apply a network to a tensor with any leading dimensions: (..., *in_shape) -> (...,
    *out_shape).

    Raises:
        ValueError: the value does not end in ``in_shape``, or the network returned another shape
            than ``out_shape``.

    Example:
        >>> import torch
        >>> over_leading(torch.nn.Linear(3, 2), torch.zeros(7, 5, 3), (3,), (2,)).shape
        torch.Size([7, 5, 2])
    """
    split = value.ndim - len(in_shape)
    if split < 0 or value.shape[split:] != in_shape:
        raise ValueError(
            f"a value of shape {tuple(value.shape)} does not end in the event shape {in_shape}"
        )
    leading = value.shape[:split]
    flat = value if split == 1 else value.reshape(-1, *in_shape)
    result = network(flat)
    if not isinstance(result, Tensor) or result.shape != (len(flat), *out_shape):
        returned = (
            tuple(result.shape[1:])
            if isinstance(result, Tensor) and len(result) == len(flat)
            else type(result).__name__
        )
        raise ValueError(
            f"{type(network).__name__} was built to map {in_shape} to {out_shape} but returned "
            f"{returned} for each example; a network factory (in_shape, out_shape) must return a "
            "module that maps (N, *in_shape) to (N, *out_shape)"
        )
    if split != 1:  # a view of the same shape is another call, forth and back
        result = result.reshape(*leading, *out_shape)
    # under autocast a network answers in half precision; log-densities are summed in the precision
    # of their argument
    return result.to(value.dtype)
