"""Mutual information gap: how much more the best dimension says of a factor than the second best.

    MIG = 1/F sum_f [I(z_(1); v_f) - I(z_(2); v_f)] / H(v_f)

with the dimensions in the order of what they say of v_f. It is 1 where each factor is in one
dimension and in no other, and 0 where it is spread alike over two. Codes are posterior means cut
into bins, as in Locatello et al. 2019, arXiv 1811.12359, not samples of q as in Chen et al.; both
entries of a gap are too large by about the same bias (:mod:`lowerbound.evaluation.factors`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lowerbound.evaluation.factors import (
    Score,
    binned,
    checked,
    entropy,
    gaps,
    mutual_information,
    with_error,
)


def mig(codes: ArrayLike | Tensor, factors: ArrayLike | Tensor, bins: int = 20) -> Score:
    """The mutual information gap (Chen, Li, Grosse and Duvenaud 2018, arXiv 1802.04942).

    Args:
        codes: (n, D).
        factors: (n, F), each a class; a factor that never varies is left out.
        bins: into which each dimension is cut, of equal width; a dimension of fewer values is taken
            as it is. 20 in the published numbers.

    Returns:
        The score; its table holds I(z_d; v_f) / H(v_f), (F, D).

    Raises:
        ValueError: shapes that do not fit, codes that are not finite, factors of which none varies,
            fewer than 2 bins.

    Example:
        >>> factors = np.stack(np.meshgrid(range(4), range(5)), -1).reshape(-1, 2)
        >>> round(mig(factors[:, ::-1], factors).estimate.value, 6)
        1.0
    """
    z, v = checked(codes, factors)
    cut = binned(z, bins)

    def table(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        columns = v[rows].T
        numbered = [np.unique(column, return_inverse=True)[1].reshape(-1) for column in columns]
        return np.array(
            [
                [
                    mutual_information(cut[rows, d], values) / h if h else 0.0
                    for d in range(z.shape[1])
                ]
                for values, h in zip(numbered, map(entropy, numbered), strict=True)
            ]
        )

    estimate = with_error(lambda rows: float(gaps(table(rows)).mean()), len(z))
    whole = table(np.arange(len(z)))
    return Score(estimate, tuple(gaps(whole).tolist()), whole)
