"""loss = -log sum_k m_k w_k, the negative importance-weighted bound of K draws.

    L_K = E[log 1/K sum_k w_k], w_k = p(x, z_k) / q(z_k|x):   ELBO = L_1 <= L_2 <= ... <= log p(x)

The average of K weights is unbiased for p(x) and scatters less than one of them, so its logarithm
loses less by Jensen's inequality. The gradient of the loss is -sum_k v_k d log w_k with the
normalised weights v = softmax_k(log w_k + log m_k): the draw that explains x best counts most.
"""

from __future__ import annotations

from collections.abc import Mapping

from lowerbound.checks import check_samples
from lowerbound.compatibility import LOG_DENSITY, SAMPLED, WEIGHABLE, Capability, Requirement
from lowerbound.draw import Draw
from lowerbound.objective import Objective, Step, Terms


class IWAE(Objective):
    """The importance-weighted bound (Burda, Grosse and Salakhutdinov 2015, arXiv 1509.00519).

    The log holds it as ``iwae``, in nats, beside the unweighted elbo, rate and distortion of the
    same draws, each (B,). With more draws the gradient tells the posterior less: its ratio of
    signal to noise falls as 1/sqrt(K) (Rainforth et al. 2018, arXiv 1802.04537); DReG has the same
    bound without that.

    Args:
        samples: K, draws for each example; 1 is the ELBO with the sampled KL.

    Raises:
        ValueError: no samples; when model and objective meet, a score that is no log-density.

    Example:
        >>> import lowerbound as lb, torch
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal((2,)),
        ...     posterior=lb.posteriors.DiagonalNormal((4,), (2,)),
        ...     likelihood=lb.likelihoods.Bernoulli((2,), (4,)),
        ... )
        >>> draw = model(torch.ones(5, 4), samples=50)
        >>> terms = IWAE(samples=50).terms(draw, Step(progress=0.0, examples=5))
        >>> (
        ...     terms.loss.shape,
        ...     bool((terms.log["iwae"] >= draw.log_w.mean(0) - 1e-5).all()),
        ... )  # by Jensen's inequality
        (torch.Size([5]), True)
    """

    def __init__(self, samples: int = 5) -> None:
        super().__init__()
        check_samples(samples)
        self.samples = samples

    @property
    def is_bound(self) -> bool:
        return True

    @property
    def requirements(self) -> Mapping[Capability, Requirement]:
        return {
            LOG_DENSITY: Requirement("weighs draws by p(x, z) / q(z|x)", "ELBO"),
            WEIGHABLE: Requirement("weighs draws by p(x, z) / q(z|x)", "ELBO"),
            SAMPLED: Requirement(
                "weighs draws, and over all z at once that is p(x), of which q learns nothing",
                "ELBO",
            ),
            **super().requirements,
        }

    def terms(self, draw: Draw, step: Step) -> Terms:
        bound = draw.iwae
        return Terms(-bound, {**draw.scores(draw.rate), "iwae": bound.detach()})
