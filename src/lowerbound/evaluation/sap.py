"""Separated attribute predictability: how much better the best dimension alone predicts a factor
than the second best.

    SAP = 1/F sum_f [S_(1)f - S_(2)f]

For a class, S_df is the balanced accuracy of thresholds on z_d, learned on one half of the examples
and measured on the other, and at least 1/C by chance for C classes; so where every factor has a
dimension of its own SAP is 1 less the mean of 1/C, and not 1. For an amount it is the squared
correlation of z_d and v_f, and SAP can be 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lowerbound.evaluation.factors import Score, checked, gaps, with_error


def sap(
    codes: ArrayLike | Tensor, factors: ArrayLike | Tensor, amounts: bool = False, seed: int = 0
) -> Score:
    """The separated attribute predictability (Kumar, Sattigeri and Balakrishnan 2018, arXiv
    1711.00848).

    Args:
        codes: (n, D).
        factors: (n, F), classes or amounts; a factor that never varies is left out.
        amounts: take the factors as amounts, by their values' order: squared correlations instead
            of accuracies.
        seed: of the halves.

    Returns:
        The score; its table holds S_df, (F, D).

    Raises:
        ValueError: shapes that do not fit, codes that are not finite, or factors of which none
            varies.

    Example:
        >>> factors = np.stack(np.meshgrid(range(4), range(5)), -1).reshape(-1, 2)
        >>> round(sap(factors, factors, amounts=True).estimate.value, 6)
        1.0
    """
    z, v = checked(codes, factors)
    if amounts:
        raw = factors.detach().cpu().numpy() if isinstance(factors, Tensor) else np.asarray(factors)
        raw = raw.reshape(len(raw), -1).astype(np.float64)
        v_amounts = raw[:, raw.std(0) > 0]
    half = np.random.default_rng(seed).random(len(z)) < 0.5

    def table(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        if amounts:
            return _correlations(z[rows], v_amounts[rows])
        learn, measure = rows[half[rows]], rows[~half[rows]]
        return np.array(
            [
                [_accuracy(z[:, d], v[:, f], learn, measure) for d in range(z.shape[1])]
                for f in range(v.shape[1])
            ]
        )

    estimate = with_error(lambda rows: float(gaps(table(rows)).mean()), len(z), seed)
    whole = table(np.arange(len(z)))
    return Score(estimate, tuple(gaps(whole).tolist()), whole)


def _correlations(z: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared, (F, D); zero where one of the two never varies."""
    a, b = (value - value.mean(0) for value in (v, z))
    scale = np.outer(np.sqrt((a**2).sum(0)), np.sqrt((b**2).sum(0)))
    return np.asarray(np.divide(a.T @ b, scale, out=np.zeros_like(scale), where=scale > 0) ** 2)


def _accuracy(
    z: NDArray[np.float64],
    v: NDArray[np.int64],
    learn: NDArray[np.int64],
    measure: NDArray[np.int64],
) -> float:
    """Of as many intervals of one dimension as there are classes, balanced over the classes."""
    from sklearn.tree import DecisionTreeClassifier  # a second, which only this should pay

    classes = len(np.unique(v[learn]))
    if classes < 2 or not len(measure):
        return 1.0
    tree = DecisionTreeClassifier(max_leaf_nodes=classes, class_weight="balanced", random_state=0)
    right = tree.fit(z[learn, None], v[learn]).predict(z[measure, None]) == v[measure]
    return float(np.mean([right[v[measure] == value].mean() for value in np.unique(v[measure])]))
