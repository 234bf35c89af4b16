"""Posterior collapse: q(z|x) is the prior for every x, so z tells nothing of x and the likelihood does without it.

KL(q(z|x) ‖ p(z)) bounds the mutual information of x and z from above (Hoffman and Johnson 2016), so a rate near zero is
enough to know it (Bowman et al. 2016, arXiv 1511.06349; Lucas, Tucker, Grosse and Norouzi 2019, arXiv 1911.02469).
"""

from __future__ import annotations

COLLAPSED = 0.1  # nats: with less than a seventh of a bit, z cannot tell two halves of the data apart
REMEDIES = "train with a warm-up or free bits, a smaller beta, or a decoder that can do less without z"


def is_collapsed(rate: float | None) -> bool:
    """Whether a mean rate in nats is that of a collapsed posterior; a rate that is not known is none.

    Example:
        >>> is_collapsed(0.003), is_collapsed(25.0), is_collapsed(None)
        (True, False, False)
    """
    return rate is not None and rate < COLLAPSED
