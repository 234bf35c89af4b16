"""Stored values as tensors: where they lie, and which of them are levels.

Integers 0..L-1 that are grey levels are kept as they are stored and put on {0, 1/(L-1), ..., 1}
when they are shown. Which L that is, is written on the card, so that another file of the same kind
is read on the same scale, whatever values it holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributions.constraints import Constraint

from lowerbound.data.dataset import Stored
from lowerbound.data.mapped import MappedArray, MappedRows
from lowerbound.data.missing import MARGINALISE
from lowerbound.data.options import Dtype
from lowerbound.data.precision import precision_of
from lowerbound.data.transforms import UnitScale
from lowerbound.supports import BINARY, COUNTS, INTEGER, REAL, Levels, smallest, union


def as_tensors(
    stored: Stored, where: str, levels: int | Literal["none"] | None, dtype: Dtype | None = "auto"
) -> tuple[torch.Tensor | MappedRows, Constraint, UnitScale | None]:
    """The stored values as tensors, where they lie, and the transform onto the unit scale where
    they are levels.

    Args:
        stored: what the source gave, with zero for what is missing.
        where: how the source is called.
        levels: the option of :func:`lowerbound.data.load`.
        dtype: the option of :func:`lowerbound.data.load`; None for float32, whatever they are.

    Raises:
        ValueError: no examples, columns that lie too far from zero for float64, values that are not
            finite, or such as are not among the levels.
        TypeError: values that are no numbers.
    """
    x, kind = stored.x, stored.x.dtype
    if x.ndim == 0 or len(x) == 0 or 0 in x.shape:
        raise ValueError(
            f"{where} holds no examples: its shape is {x.shape}, and examples come first, (n, *X)"
        )
    if kind.kind not in "buif":
        raise TypeError(
            f"{where} holds values of type {kind}; real numbers, integers or booleans are needed"
        )
    if kind.kind == "f":
        has_levels = isinstance(levels, int)
        precision = precision_of(stored, where, None if has_levels else dtype)
        if isinstance(x, np.ndarray):
            with np.errstate(over="ignore"):  # what overflows is refused below, in words
                x = np.ascontiguousarray(x.astype(precision))
        return _typed(x, precision), _support(x, stored, where, levels, precision), None
    ends = [(int(part.min()), int(part.max())) for _, part in _parts(x)]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    is_binary = stored.levels is None and low >= 0 and high <= 1
    if levels is not None and levels != "none" and levels < 2:
        raise ValueError(f"levels is {levels}: at least 2 are needed")
    if levels is None:
        levels = 2 if is_binary else stored.levels or (256 if kind == np.uint8 else "none")
    if levels == "none":
        counts = COUNTS if low >= 0 else INTEGER
        precision = precision_of(stored, where, dtype)
        return _typed(x, precision), BINARY if is_binary else counts, None
    scale = UnitScale(levels)
    support = scale.support(INTEGER)
    if low < 0 or high >= levels:
        raise ValueError(
            f"{where} holds integers from {low} to {high}, which are not {levels} levels "
            f"0..{levels - 1}"
        )
    return _typed(x, np.uint8 if levels <= 256 else np.int32), support, scale


def _support(
    x: NDArray[Any] | MappedArray,
    stored: Stored,
    where: str,
    levels: int | Literal["none"] | None,
    precision: type[np.float32 | np.float64],
) -> Constraint:
    """Where floating-point values lie, in a precision; ValueError where one is not finite in
    float32, or none of the levels.
    """
    unfit, is_nan = 0, False
    first: tuple[int, ...] = ()
    support: Constraint = BINARY
    mask = None if stored.mask is None else torch.from_numpy(stored.mask)
    for start, part in _parts(x):
        with np.errstate(over="ignore"):
            values = part.astype(np.float32, copy=not part.flags.writeable)
        bad = ~np.isfinite(values)
        if bad.any():
            unfit += int(bad.sum())
            is_nan = is_nan or bool(np.isnan(values).any())
            if not first:
                row, *rest = (int(i) for i in np.argwhere(bad)[0])
                first = (start + row, *rest)
        elif isinstance(levels, int):
            if not bool(Levels(levels).check(torch.from_numpy(values)).all()):
                raise ValueError(
                    f"{where} holds values that are not among the {levels} levels 0, "
                    f"1/{levels - 1}, ..., 1"
                )
        elif support is not REAL:
            finite = torch.from_numpy(values if precision is np.float32 else part.astype(precision))
            support = union([support, smallest(finite if mask is None else finite[mask])])
    if unfit:
        raise ValueError(
            f"{where} holds {unfit:,} of {math.prod(x.shape):,} values that are NaN or infinite in "
            f"float32, the first at index {first}; remove or replace them"
            + (f", or, where NaN means missing, {MARGINALISE}" if is_nan else "")
        )
    return Levels(levels) if isinstance(levels, int) else support


def _parts(x: NDArray[Any] | MappedArray) -> Iterator[tuple[int, NDArray[Any]]]:
    """All values: at once, or in chunks from their file, with the number of the first example of
    each.
    """
    return iter([(0, x)]) if isinstance(x, np.ndarray) else x.chunks()


def _typed(x: NDArray[Any] | MappedArray, dtype: type[np.generic]) -> torch.Tensor | MappedRows:
    """The values as tensors of a type."""
    if isinstance(x, MappedArray):
        return MappedRows(x, np.dtype(dtype))
    # no copy yet of what has the type: taking the splits' rows makes one
    values = np.ascontiguousarray(x, dtype)
    return torch.from_numpy(values if values.flags.writeable else values.copy())
