"""loss = -log sum_k m_k w_k, as for the importance-weighted bound, with another gradient in the
posterior's parameters.

Write z_k = g(eps_k, phi) and v = softmax_k(log w_k + log m_k). The bound's gradient in phi is,
reparameterised once,

    sum_k v_k [(d log w_k / d z_k) (d z_k / d phi) - d log q(z_k; phi) / d phi at fixed z_k],

and the second term, which carries the noise, has no mean of zero here, since v_k depends on z_k.
Reparameterised a second time, its expectation is that of sum_k (v_k - v_k^2) (d log w_k / d z_k) (d
z_k / d phi), so that what is left is

    sum_k v_k^2 (d log w_k / d z_k) (d z_k / d phi)

(Tucker, Lawson, Gu and Maddison 2018, arXiv 1810.04152). Its ratio of signal to noise rises with K
where that of the first falls, and it vanishes for every draw where q(z|x) = p(z|x).

In code: the draw's log q has no gradient through phi, so phi gets v_k times the path; and the
gradient that arrives at z_k, behind which lies nothing but phi, is multiplied by v_k once more.
Likelihood and prior keep the bound's own gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from lowerbound.checks import check_samples
from lowerbound.compatibility import LOG_DENSITY, PATHWISE, WEIGHABLE, Capability, Requirement
from lowerbound.draw import Draw
from lowerbound.objective import Objective, Step, Terms


class DReG(Objective):
    """The importance-weighted bound with doubly reparameterised gradients (Tucker et al. 2018,
    arXiv 1810.04152).

    Loss and log are those of IWAE: ``iwae``, elbo, rate and distortion in nats, each (B,). The
    posterior's parameters get the same gradient in expectation by another estimator, which
    evaluates the posterior's network twice. It needs draws made with ``path_gradient=True``, as fit
    makes them, and each serves one call of :meth:`terms`, which marks its z.

    Args:
        samples: K, draws for each example; 1 is the ELBO with path gradients.

    Raises:
        ValueError: no samples; when model and objective meet, a score that is no log-density, a
            posterior without reparameterised draws from a density, or a part that asks for a
            penalty, whose gradient would be weighed too.

    Example:
        >>> import lowerbound as lb, torch
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal((2,)),
        ...     posterior=lb.posteriors.DiagonalNormal((4,), (2,)),
        ...     likelihood=lb.likelihoods.Bernoulli((2,), (4,)),
        ... )
        >>> objective = DReG(samples=50)
        >>> draw = model(torch.ones(5, 4), samples=50, path_gradient=objective.path_gradient)
        >>> terms = objective.terms(draw, Step(progress=0.0, examples=5))
        >>> terms.loss.shape, torch.equal(terms.log["iwae"], -terms.loss)
        (torch.Size([5]), True)
    """

    path_gradient = True

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
            **super().requirements,
            PATHWISE: Requirement("reparameterises the gradient of log q", "ELBO"),
        }

    def check(self, draw: Draw) -> None:
        super().check(draw)
        if draw.penalties:
            raise ValueError(
                "DReG would weigh the gradient of what the model adds to the loss "
                f"({', '.join(draw.penalties)}); use IWAE"
            )

    def terms(self, draw: Draw, step: Step) -> Terms:
        bound = draw.iwae
        weights = (draw.log_w + draw.log_m).detach().softmax(0)
        for latent in draw.latents:
            if latent.z.requires_grad:
                latent.z.register_hook(partial(_weighed, weights=weights))
        return Terms(-bound, {**draw.scores(draw.rate), "iwae": bound.detach()})


def _weighed(gradient: Tensor, weights: Tensor) -> Tensor:
    """The gradient of each draw (K, B, *Z) times its weight (K, B)."""
    return gradient * weights.to(gradient.dtype).reshape(
        *weights.shape, *[1] * (gradient.ndim - weights.ndim)
    )
