"""Disentanglement, completeness and informativeness, from how much each dimension matters in
predicting each factor.

With R_df the importance of dimension d for factor f in a random forest that predicts v_f from all
of z,

    disentanglement  1 - H(R_d. / sum_f R_df) / log F, weighed by sum_f R_df: does a dimension tell
    of one factor only?
    completeness     1 - H(R_.f / sum_d R_df) / log D, averaged over f: is a factor in one dimension
                     only?
    informativeness  accuracy of the prediction on other examples, averaged over f: is it there at
    all?
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lowerbound.evaluation.estimate import Estimate
from lowerbound.evaluation.factors import checked, with_error

# of each forest; importances are averages over trees, and more of them move the scores by less than
# their errors
TREES = 20


@dataclass(frozen=True)
class Dci:
    """The three scores.

    Args:
        disentanglement: None where there is one factor, of which every dimension tells.
        completeness: None where there is one dimension, in which every factor is.
        informativeness: accuracy on examples that the forests were not grown on.
        importance: R, (F, D), rows that sum to 1; of a factor that nothing predicts, to 0.
    """

    disentanglement: Estimate | None
    completeness: Estimate | None
    informativeness: Estimate
    importance: NDArray[np.float64]


def dci(codes: ArrayLike | Tensor, factors: ArrayLike | Tensor, seed: int = 0) -> Dci:
    """The framework of Eastwood and Williams 2018, with random forests.

    Every split of a tree may use every dimension: were it shown some at random, dimensions that say
    nothing would be used where the one that says all is not shown, and a perfect code would not
    score 1.

    Args:
        codes: (n, D).
        factors: (n, F), each a class; a factor that never varies is left out.
        seed: of the halves and the forests.

    Raises:
        ValueError: shapes that do not fit, codes that are not finite, or factors of which none
            varies.

    Example:
        >>> factors = np.stack(np.meshgrid(range(4), range(5)), -1).reshape(-1, 2).repeat(10, 0)
        >>> result = dci(factors, factors)
        >>> (
        ...     round(result.disentanglement.value, 6),
        ...     round(result.completeness.value, 6),
        ...     result.informativeness.value,
        ... )
        (1.0, 1.0, 1.0)
    """
    z, v = checked(codes, factors)
    half = np.random.default_rng(seed).random(len(z)) < 0.5
    grown_on: dict[int, tuple[NDArray[np.float64], float]] = {}

    def grown(rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], float]:
        key = hash(rows.tobytes())  # three scores are made of the same forests
        if key not in grown_on:
            grown_on[key] = _forests(z, v, rows[half[rows]], rows[~half[rows]], seed)
        return grown_on[key]

    many_factors, many_dimensions = v.shape[1] > 1, z.shape[1] > 1
    n = len(z)
    return Dci(
        with_error(lambda rows: _disentanglement(grown(rows)[0]), n, seed)
        if many_factors
        else None,
        with_error(lambda rows: _completeness(grown(rows)[0]), n, seed)
        if many_dimensions
        else None,
        with_error(lambda rows: grown(rows)[1], n, seed),
        grown(np.arange(n))[0],
    )


def _forests(
    z: NDArray[np.float64],
    v: NDArray[np.int64],
    learn: NDArray[np.int64],
    measure: NDArray[np.int64],
    seed: int,
) -> tuple[NDArray[np.float64], float]:
    """Importances (F, D), and the accuracy on the other half."""
    from sklearn.ensemble import RandomForestClassifier  # a second, which only this should pay

    importances, right = [], []
    for column in v.T:
        forest = RandomForestClassifier(TREES, max_features=None, random_state=seed).fit(
            z[learn], column[learn]
        )
        importances.append(forest.feature_importances_)
        right.append(float((forest.predict(z[measure]) == column[measure]).mean()))
    return np.array(importances), float(np.mean(right))


def _entropies(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each row that sums to 1."""
    return np.asarray(-(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(1))


def _disentanglement(importance: NDArray[np.float64]) -> float:
    weights = importance.sum(0)
    used = weights > 0
    if not used.any():
        return 0.0
    of_dimension = 1 - _entropies((importance[:, used] / weights[used]).T) / math.log(
        len(importance)
    )
    return float((of_dimension * weights[used]).sum() / weights[used].sum())


def _completeness(importance: NDArray[np.float64]) -> float:
    sums = importance.sum(1)
    predicted = sums > 0
    of_factor = np.zeros(len(importance))
    of_factor[predicted] = 1 - _entropies(importance[predicted] / sums[predicted, None]) / math.log(
        importance.shape[1]
    )
    return float(of_factor.mean())
