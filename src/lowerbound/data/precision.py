"""Which precision stored values need: float32, or float64 where float32 would change them.

Near 1.7e9 the steps of float32 are 128, so that times in seconds would become every other minute;
whole numbers above 2^24 would become others. A column is judged by its spread: what is lost matters
where it is large against that. Pictures, and other arrays of more than two dimensions, are one
column, since their entries have one unit.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.data.dataset import Stored
from lowerbound.data.mapped import MappedArray
from lowerbound.data.options import Dtype
from lowerbound.units import HALF_STEP, TOO_COARSE

Precision = type[np.float32 | np.float64]

CHANGED = 1e-6  # of the spread: what float32 may change nine of ten values by, at most
LOST = 0.01  # of the spread: a step of the stored type that leaves too little of a column
EXACT = 2**24  # whole numbers up to it are exact in float32
WIDEST = 10_000  # columns; wider arrays are judged as one
SAMPLE, LEAST = 2**20, 100  # values that spreads are taken from, and rows at least


def precision_of(stored: Stored, where: str, dtype: Dtype | None) -> Precision:
    """The precision in which the values are kept.

    Args:
        stored: what the source gave.
        where: how the source is called.
        dtype: the option of :func:`lowerbound.data.load`; None for float32, whatever they are.

    Raises:
        ValueError: a column is so far from zero that even float64 leaves less than 99 % of its
            spread.

    Warns:
        UserWarning: a column was stored as float32 where that has done so.

    Example:
        >>> hours = 3600.0 * np.arange(100)
        >>> precision_of(Stored(hours), "x", "auto").__name__
        'float32'
        >>> precision_of(Stored(1.7e9 + hours), "x", "auto").__name__
        'float64'
    """
    if dtype is None:
        return np.float32
    is_wide = stored.x.dtype.itemsize > 4 or stored.x.dtype.kind in "ui"
    needs = dtype == "float64" or (is_wide and _has_large_integers(stored))
    for name, values in _columns(stored):
        exact = values.astype(np.float64)
        exact = exact[np.isfinite(exact)]  # what is not is refused by its reader
        low, middle, high = np.quantile(exact, (0.25, 0.5, 0.75)) if len(exact) else (0.0, 0.0, 0.0)
        # of a normal that is its deviation, and outliers do not move it
        spread = (high - low) / 1.349 or (exact.std() if len(exact) else 0.0)
        if not spread > 0:
            continue
        _check_steps(name, middle, spread, stored, where)
        with np.errstate(over="ignore"):
            change = np.abs(exact - exact.astype(np.float32)) if is_wide else np.zeros(1)
        needs = needs or bool(
            HALF_STEP * abs(middle) > TOO_COARSE * spread
            or np.quantile(change, 0.9) > CHANGED * spread
        )
    return np.float64 if needs else np.float32


def _has_large_integers(stored: Stored) -> bool:
    """Whether a column of whole numbers has one that float32 would change."""
    x = stored.x
    if not isinstance(x, np.ndarray):  # of a file that stays where it is, some rows have to do
        x = x.values[_rows(len(x), x.shape)]
    if x.size == 0 or np.nanmax(np.abs(x.astype(np.float64))) <= EXACT:
        return False
    flat = x.reshape(len(x), -1) if x.ndim == 2 else x.reshape(-1, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        changed = (flat.astype(np.float32).astype(np.float64) != flat).any(0)
        return bool(((flat == np.rint(flat)).all(0) & changed).any())


def _check_steps(name: str, middle: float, spread: float, stored: Stored, where: str) -> None:
    """Refuse, or warn of, a column of which the stored type keeps too little."""
    is_narrow = stored.x.dtype in (np.float16, np.float32)
    held = stored.x.dtype.type if is_narrow else np.float64
    with np.errstate(over="ignore"):
        step = float(np.spacing(held(abs(middle))))
    if not LOST * spread < step < np.inf:
        return
    what = (
        f"{where}: {name} lies near {middle:.3g} with a spread of {spread:.3g}, and "
        f"{held.__name__} has steps of {step:.3g} there"
    )
    if is_narrow:
        warnings.warn(
            f"{what}: what lay between was lost when it was stored; store it as float64, or "
            "subtract an offset before",
            stacklevel=2,
        )
        return
    raise ValueError(f"{what}, more than 1 % of the spread; subtract an offset, and give the rest")


def _columns(stored: Stored) -> Iterator[tuple[str, NDArray[Any]]]:
    """The name of each column, or of all values as one, and the observed values of some rows."""
    x = stored.x
    rows = _rows(len(x), x.shape)
    some = x.values[rows] if isinstance(x, MappedArray) else x[rows]
    mask = None if stored.mask is None else stored.mask[rows]
    if x.ndim != 2 or x.shape[1] > WIDEST:
        yield "x", some.reshape(-1) if mask is None else some[mask]
        return
    for j in range(x.shape[1]):
        name = stored.columns[j] if stored.columns else ""
        if name not in stored.categories:
            values = some[:, j] if mask is None else some[mask[:, j], j]
            yield f"column {name!r}" if name else f"column {j}", values


def _rows(n: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Rows that are spread evenly over all n."""
    count = min(n, max(LEAST, SAMPLE // max(1, int(np.prod(shape[1:])))))
    return np.linspace(0, n - 1, count).astype(np.int64)
