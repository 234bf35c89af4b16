"""loss = -1 / (1 - alpha) log sum_k m_k w_k^(1 - alpha), the negative variational Renyi bound of K
draws.

With infinitely many draws it is L_alpha = log p(x) - D_alpha(q(z|x) ‖ p(z|x)), where D_alpha is the
Renyi divergence of order alpha. It falls as alpha rises: from log p(x) at 0, where K draws give the
importance-weighted bound, through the ELBO at 1, to log min w.

For alpha >= 0 the divergence is not negative and L_alpha <= log p(x). The expectation of the
estimate lies between the ELBO, which it is at K = 1, and L_alpha, so it is a lower bound at every
K. For alpha < 0 the limit is an *upper* bound, which the estimate approaches from below; at finite
K that bounds nothing.

The gradient weighs the draws by softmax_k((1 - alpha) log w_k + log m_k).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lowerbound.checks import check_samples
from lowerbound.compatibility import LOG_DENSITY, SAMPLED, WEIGHABLE, Capability, Requirement
from lowerbound.draw import Draw
from lowerbound.objective import Objective, Step, Terms

NEAR_ONE = 1e-3  # |1 - alpha| below which the logarithm of a sum close to 1 would lose digits


class Renyi(Objective):
    """The variational Renyi bound (Li and Turner 2016, arXiv 1602.02311).

    The log holds it as ``renyi``, in nats, beside the unweighted elbo, rate and distortion of the
    same draws, each (B,).

    Args:
        alpha: order of the divergence: 1 is the ELBO with the sampled KL, 0 the importance-weighted
            bound; between them the posterior covers more of p(z|x) than with the ELBO. Below 0 it
            is no lower bound.
        samples: K, draws for each example.

    Raises:
        ValueError: an alpha that is not finite, or no samples; when model and objective meet, a
            score that is no log-density.

    Example:
        >>> Renyi(alpha=0.5).is_bound, Renyi(alpha=-1.0).is_bound
        (True, False)
        >>> import lowerbound as lb, torch
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal((2,)),
        ...     posterior=lb.posteriors.DiagonalNormal((4,), (2,)),
        ...     likelihood=lb.likelihoods.Bernoulli((2,), (4,)),
        ... )
        >>> Renyi(alpha=0.5).terms(
        ...     model(torch.ones(5, 4), samples=5), Step(progress=0.0, examples=5)
        ... ).loss.shape
        torch.Size([5])
    """

    def __init__(self, alpha: float = 0.5, samples: int = 5) -> None:
        super().__init__()
        if not math.isfinite(alpha):
            raise ValueError(
                f"alpha is {alpha}: the order of the divergence must be a finite number, such as "
                "0.5"
            )
        check_samples(samples)
        self.alpha = alpha
        self.samples = samples

    @property
    def is_bound(self) -> bool:
        return self.alpha >= 0

    @property
    def requirements(self) -> Mapping[Capability, Requirement]:
        whole = Requirement(
            "of order 0 weighs draws, and over all z at once that is p(x), of which q learns "
            "nothing",
            "ELBO",
        )
        return {
            LOG_DENSITY: Requirement("weighs draws by p(x, z) / q(z|x)", "ELBO"),
            WEIGHABLE: Requirement("weighs draws by p(x, z) / q(z|x)", "ELBO"),
            **({} if self.alpha else {SAMPLED: whole}),
            **super().requirements,
        }

    def terms(self, draw: Draw, step: Step) -> Terms:
        bound = self._bound(draw)
        return Terms(-bound, {**draw.scores(draw.rate), "renyi": bound.detach()})

    def _bound(self, draw: Draw) -> Tensor:
        """The bound, (B,)."""
        power, mean = 1 - self.alpha, draw.average(draw.log_w)
        if power == 0:
            return mean
        if abs(power) >= NEAR_ONE:
            return torch.logsumexp(power * draw.log_w + draw.log_m, 0) / power
        # the sum is 1 up to rounding, and its logarithm would be divided by a tiny power: take the
        # 1 out of it. The result is the same for every centre, so none has a gradient
        centre = mean.detach()
        return centre + draw.average(torch.expm1(power * (draw.log_w - centre))).log1p() / power
