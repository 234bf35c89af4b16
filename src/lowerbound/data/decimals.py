"""How many decimals the columns of a table have, so that what a model writes looks like them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.data.dataset import Stored

MOST_DECIMALS = 8  # more are the digits of a measurement or a calculation, and none is meant
MOST_COLUMNS = 1000  # wider arrays are no tables that somebody reads
FIRST_ROWS = 100  # they rule out most numbers of decimals, so that few are tried on all rows


def decimals_of(stored: Stored) -> tuple[int | None, ...] | None:
    """Of each column how many decimals its observed values have: 0 of whole numbers, None where
    there are more than eight; None of what is no table in memory.

    Example:
        >>> decimals_of(Stored(np.array([[1.0, 0.25, 1 / 3], [20.0, 3.5, 2 / 3]])))
        (0, 2, None)
    """
    x = stored.x
    if not isinstance(x, np.ndarray) or x.ndim != 2 or x.shape[1] > MOST_COLUMNS:
        return None
    if x.dtype.kind != "f":
        return (0,) * int(x.shape[1])
    mask = stored.mask
    columns = (x[:, j] if mask is None else x[mask[:, j], j] for j in range(x.shape[1]))
    return tuple(map(_decimals, columns))


def _decimals(values: NDArray[Any]) -> int | None:
    first = values[:FIRST_ROWS]
    with np.errstate(over="ignore", invalid="ignore"):  # what float16 cannot hold is not equal
        for decimals in range(MOST_DECIMALS + 1):
            if not np.array_equal(first, first.round(decimals)):
                continue
            if np.array_equal(values, values.round(decimals)):
                return decimals
    return None
