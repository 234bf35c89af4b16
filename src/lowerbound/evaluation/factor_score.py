"""FactorVAE score: is the dimension that varies least, while a factor is held, always the same one
for that factor?

A vote: choose a factor and a value of it, draw examples that have it, and take the dimension whose
variance among them is the smallest share of its variance over all. The score is the accuracy with
which the dimension names the factor, each dimension naming that for which it was voted most often.
It is 1 where each factor has a dimension of its own, and 1/F in expectation where dimensions say
nothing. It does not see a factor that is in several dimensions.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lowerbound.evaluation.estimate import Estimate
from lowerbound.evaluation.factors import UNIT, Score, checked


def factor_score(
    codes: ArrayLike | Tensor,
    factors: ArrayLike | Tensor,
    batch: int = 64,
    votes: int = 800,
    seed: int = 0,
) -> Score:
    """The disentanglement metric of Kim and Mnih 2018, arXiv 1802.05983.

    The majority is learned from ``votes`` votes, and the accuracy that of as many others, so that
    it is not flattered by chance; the paper counts the same votes twice. Its standard error is over
    the votes: the examples are taken as they are.

    Args:
        codes: (n, D); a dimension that never varies has no vote.
        factors: (n, F), each a class; a factor that never varies is left out.
        batch: examples of a vote, drawn with replacement from those that have the value.
        votes: to learn from, and again to measure by; 800 in the paper.
        seed: of the votes.

    Returns:
        The score; its table holds how often each dimension was voted for while each factor was
        held, (F, D).

    Raises:
        ValueError: shapes that do not fit, codes that are not finite or never vary, factors of
            which none varies, a batch below 2, or no votes.

    Example:
        >>> factors = np.stack(np.meshgrid(range(4), range(5)), -1).reshape(-1, 2)
        >>> factor_score(factors, factors).estimate.value
        1.0
    """
    if batch < 2 or votes < 1:
        raise ValueError(
            f"batch is {batch} and votes {votes}: at least 2 examples and 1 vote are needed"
        )
    z, v = checked(codes, factors)
    spread = z.std(0)
    varying = np.flatnonzero(spread > 0)
    if not len(varying):
        raise ValueError("no dimension of the codes varies, so there is nothing to vote for")
    scaled = z[:, varying] / spread[varying]
    rng = np.random.default_rng(seed)

    def table() -> NDArray[np.float64]:
        counts = np.zeros((v.shape[1], z.shape[1]))
        for _ in range(votes):
            f = rng.integers(v.shape[1])
            rows = np.flatnonzero(v[:, f] == v[rng.integers(len(v)), f])
            chosen = scaled[rng.choice(rows, batch)]
            counts[f, varying[chosen.var(0).argmin()]] += 1
        return counts

    learned, measured = table(), table()
    named = learned.argmax(0)
    right = measured[named, np.arange(z.shape[1])]
    value = float(right.sum() / votes)
    each = [float(right[named == f].sum() / max(1.0, measured[f].sum())) for f in range(v.shape[1])]
    return Score(
        Estimate(value, math.sqrt(value * (1 - value) / votes), votes, UNIT), tuple(each), measured
    )
