"""loss = distortion + beta * rate; at beta = 1 the negative evidence lower bound.

ELBO = E_q[log p(x|z)] - KL(q(z|x) ‖ p(z)) <= log p(x)
"""

from __future__ import annotations

import math

from lowerbound.draw import Draw, RateEstimator
from lowerbound.objective import Objective, Step, Terms


class ELBO(Objective):
    """The evidence lower bound (Kingma and Welling 2013, arXiv 1312.6114), with an explicit weight on the rate.

    Args:
        beta: weight of the rate (beta-VAE, Higgins et al. 2017). At 1 the loss is the negative ELBO; above 1 it is still a
            bound, a looser one; below 1 it is none. The log holds the unweighted ELBO whatever beta is.
        kl: "auto" takes the closed form where the pair of distributions has one and the draws otherwise; "closed_form"
            insists; "sampled" is the Monte Carlo estimate log q - log p at the draws.
        samples: K, draws for each example; the loss is their average.

    Raises:
        ValueError: negative or non-finite beta, no samples, or an unknown kl.

    Example:
        >>> ELBO(beta=4.0).is_bound, ELBO(beta=0.5).is_bound
        (True, False)

    """

    def __init__(self, beta: float = 1.0, kl: RateEstimator = "auto", samples: int = 1) -> None:
        super().__init__()
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta is {beta}: the weight of the rate must be a finite number, at least 0")
        if samples < 1:
            raise ValueError(f"samples is {samples}: at least 1 draw is needed")
        if kl not in ("auto", "closed_form", "sampled"):
            raise ValueError(f"kl is {kl!r}; there is 'auto', 'closed_form' and 'sampled'")
        self.beta = beta
        self.kl: RateEstimator = kl
        self.samples = samples

    @property
    def is_bound(self) -> bool:
        return self.beta >= 1

    def check(self, draw: Draw) -> None:
        draw.rate_by(self.kl)

    def rate_name(self, draw: Draw) -> str:
        return "sampled" if self.kl == "sampled" else super().rate_name(draw)

    def terms(self, draw: Draw, step: Step) -> Terms:
        rate = draw.rate_by(self.kl)
        loss = draw.distortion + self.beta * rate
        for penalty in draw.penalties.values():
            loss = loss + penalty
        return Terms(loss, draw.scores(rate))
