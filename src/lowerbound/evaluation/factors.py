"""Codes against known factors: what the representation scores share.

Codes are (n, D) numbers, of which a representation is made, and factors (n, F) what the examples
were made from: shape, size, position. A score asks how far each factor is in a dimension of its
own. Mutual information and entropy are those of counts,

    I(a; b) = sum_ab p(a, b) log [p(a, b) / (p(a) p(b))],    H(a) = -sum_a p(a) log p(a),

in nats, with p the shares found ("plug-in"). Of two variables with A and B values that have nothing
to do with each other, n examples show about (A - 1)(B - 1) / (2 n) nats on average (Miller 1955),
never less than none; that is 0.004 nats for 20 bins, 5 values and 10,000 examples. Codes that are
no classes already are cut into bins of equal width, as in the published numbers.

A standard error is that of the score over disjoint groups of examples, divided by the root of their
number. It says how far the score may lie from that of more examples of the same model, and nothing
of another training of it. Of fewer than 100 examples none is given: the spread of two or three
groups says next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lowerbound.evaluation.estimate import Estimate

# disjoint groups of examples behind a standard error, which is then itself known to a quarter
GROUPS = 10
MIN_GROUP_EXAMPLES = 20  # examples of a group below which no score of it means anything
# groups below which no error is given: of five it is known to a third, of two hardly at all
ENOUGH = 5
UNIT = "of 1"


@dataclass(frozen=True)
class Score:
    """One score of a representation.

    Args:
        estimate: the score.
        per_factor: of each factor that varies.
        table: what it was made from, (F, D): how much each dimension (column) says of each factor
            (row).
    """

    estimate: Estimate
    per_factor: tuple[float, ...]
    table: NDArray[np.float64]


def checked(
    codes: ArrayLike | Tensor, factors: ArrayLike | Tensor
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Codes (n, D), and the number of each factor's value among those that it takes, (n, F),
    constant factors left out.

    Raises:
        ValueError: shapes that do not fit, codes that are not finite, or factors of which none
            varies.
    """
    z, v = (
        value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        for value in (codes, factors)
    )
    v = v[:, None] if v.ndim == 1 else v
    if z.ndim != 2 or v.ndim != 2 or len(z) != len(v) or not z.size:
        raise ValueError(
            f"codes of shape {z.shape} and factors of shape {v.shape} do not fit: (n, D) and (n, "
            "F) are needed"
        )
    if not np.isfinite(z).all():
        raise ValueError("codes hold values that are not finite, of which no score can be made")
    numbers = [np.unique(column, return_inverse=True)[1].reshape(-1) for column in v.T]
    varying = [column for column in numbers if column.max() > 0]
    if not varying:
        raise ValueError(
            f"none of the {v.shape[1]} factors varies over the {len(v):,} examples, so there is "
            "nothing to find"
        )
    return z.astype(np.float64), np.stack(varying, 1).astype(np.int64)


def binned(codes: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """Each dimension cut into bins of equal width between its extremes, (n, D); of few values,
    these.

    Raises:
        ValueError: fewer than 2 bins.

    Example:
        >>> binned(np.array([[0.0], [0.4], [0.6], [1.0]]), 2).ravel()
        array([0, 0, 1, 1])
    """
    if bins < 2:
        raise ValueError(f"bins is {bins}: at least 2 are needed")
    columns = []
    for column in codes.T:
        values, numbers = np.unique(column, return_inverse=True)
        if len(values) > bins:
            edges = np.linspace(values[0], values[-1], bins + 1)[1:-1]
            numbers = np.digitize(column, edges)
        columns.append(numbers.reshape(-1))
    return np.stack(columns, 1).astype(np.int64)


def entropy(numbers: NDArray[np.int64]) -> float:
    """H of a variable by its values (n,), whole numbers from 0, nats.

    Example:
        >>> round(entropy(np.array([0, 0, 1, 1])) / math.log(2), 6)
        1.0
    """
    shares = np.bincount(numbers) / len(numbers)
    return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())


def mutual_information(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """I of two variables by their values, each (n,), nats.

    Example:
        >>> a = np.array([0, 0, 1, 1])
        >>> (
        ...     mutual_information(a, a) == entropy(a),
        ...     round(mutual_information(a, np.array([0, 1, 0, 1])), 6),
        ... )
        (True, 0.0)
    """
    return entropy(a) + entropy(b) - entropy(a * (int(b.max()) + 1) + b)


def gaps(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far the largest of each row lies above the second, (F, D) -> (F,); above 0 where there is
    one dimension.
    """
    ordered = (
        np.sort(np.concatenate([table, np.zeros((len(table), 1))], 1), 1)
        if table.shape[1] == 1
        else np.sort(table, 1)
    )
    return np.asarray(ordered[:, -1] - ordered[:, -2])


def with_error(score: Callable[[NDArray[np.int64]], float], n: int, seed: int = 0) -> Estimate:
    """A score of all examples with its standard error.

    Args:
        score: makes it of some examples by their numbers, (m,).
        n: how many there are.
        seed: of the division into groups.
    """
    order = np.random.default_rng(seed).permutation(n)
    groups = min(GROUPS, n // MIN_GROUP_EXAMPLES)
    stderr = math.nan
    if groups >= ENOUGH:
        stderr = float(
            np.std([score(group) for group in np.array_split(order, groups)], ddof=1)
        ) / math.sqrt(groups)
    return Estimate(float(score(np.arange(n))), stderr, n, UNIT)
