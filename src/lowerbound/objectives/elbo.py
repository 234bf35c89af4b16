"""loss = distortion + beta * rate; at beta = 1 the negative evidence lower bound.

    ELBO = E_q[log p(x|z)] - KL(q(z|x) ‖ p(z)) <= log p(x)

Two changes are known to keep latent dimensions from being switched off early in training, where the
rate is cheaper to save than the distortion: beta may rise from zero over a first part of the run,
and every latent dimension may be given some nats for free. Neither changes what is logged: the ELBO
there has beta = 1 and no free bits.

With z = g(eps, phi) for fixed noise, the gradient of log w(z, phi) in the posterior's parameters
phi has two parts,

    d log w / d phi = (d log w / d z) (d z / d phi) - d log q(z; phi) / d phi at fixed z,

and the second has mean zero. Path gradients leave it out: where q(z|x) = p(z|x), log w is the same
for every z, so that the first is zero for every draw and the gradient has no variance left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lowerbound.checks import check_samples
from lowerbound.compatibility import WEIGHABLE, Capability, Requirement
from lowerbound.draw import Draw, RateEstimator
from lowerbound.objective import Objective, Step, Terms


class ELBO(Objective):
    """The evidence lower bound (Kingma and Welling 2013, arXiv 1312.6114), with an explicit weight
    on the rate.

    Args:
        beta: weight of the rate (beta-VAE, Higgins et al. 2017). At 1 the loss is the negative
            ELBO; above 1 it is still a bound, a looser one; below 1 it is none. The log holds the
            unweighted ELBO whatever beta is.
        kl: "auto" takes the closed form where the pair of distributions has one and the draws
            otherwise; "closed_form" insists; "sampled" is the Monte Carlo estimate log q - log p at
            the draws.
        samples: K, draws for each example; the loss is their average.
        warmup: fraction of the run over which beta rises in a straight line from 0 to its value
            (Bowman et al. 2016, arXiv 1511.06349; Sonderby et al. 2016, arXiv 1602.02282); at most
            1, so that a run never ends before it.
        free_bits: nats that each latent dimension may cost, in mean over the batch, before its rate
            is counted (Kingma et al. 2016, arXiv 1606.04934); needs a posterior and a prior with
            independent entries and the closed form.
        path_gradient: let the posterior learn through z alone ("sticking the landing", Roeder, Wu
            and Duvenaud 2017, arXiv 1703.09194): the same gradient in expectation, without variance
            where the posterior is exact. It needs the sampled KL, which "auto" then takes, and
            evaluates the posterior's network twice.

    Raises:
        ValueError: negative or non-finite beta or free bits, no samples, an unknown kl, a warm-up
            outside [0, 1], free bits without the closed form, or path gradients with it.

    Example:
        >>> ELBO(beta=4.0).is_bound, ELBO(beta=0.5).is_bound
        (True, False)
        >>> ELBO(warmup=0.5).weight(progress=0.1), ELBO(warmup=0.5).weight(progress=0.5)
        (0.2, 1.0)
        >>> ELBO(path_gradient=True).estimator
        'sampled'
    """

    def __init__(
        self,
        beta: float = 1.0,
        kl: RateEstimator = "auto",
        samples: int = 1,
        warmup: float = 0.0,
        free_bits: float = 0.0,
        path_gradient: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= beta < math.inf:
            raise ValueError(
                f"beta is {beta}: the weight of the rate must be a finite number, at least 0"
            )
        check_samples(samples)
        if kl not in ("auto", "closed_form", "sampled"):
            raise ValueError(f"kl is {kl!r}; there is 'auto', 'closed_form' and 'sampled'")
        if not 0 <= warmup <= 1:
            raise ValueError(f"warmup is {warmup}: it is a fraction of the run, from 0 to 1")
        if not 0 <= free_bits < math.inf:
            raise ValueError(
                f"free_bits is {free_bits}: nats for each latent dimension, a finite number, at "
                "least 0"
            )
        if free_bits and kl == "sampled":
            raise ValueError(
                "free_bits needs the rate of each dimension in closed form: leave kl at 'auto'"
            )
        if path_gradient and kl == "closed_form":
            raise ValueError(
                "path_gradient needs the sampled KL, at whose draws log q is evaluated: set kl to "
                "'sampled'"
            )
        if path_gradient and free_bits:
            raise ValueError(
                "path_gradient needs the sampled KL and free_bits that in closed form: leave one "
                "of them at its default"
            )
        self.beta = beta
        self.kl: RateEstimator = kl
        self.samples = samples
        self.warmup = warmup
        self.free_bits = free_bits
        self.path_gradient = path_gradient

    @property
    def is_bound(self) -> bool:
        # free bits only add to the loss, and the warm-up is over when the run ends
        return self.beta >= 1

    @property
    def estimator(self) -> RateEstimator:
        """How the rate is found: as ``kl`` says, and from the draws where path gradients are asked
        for.
        """
        return "sampled" if self.path_gradient else self.kl

    def weight(self, progress: float) -> float:
        """The weight of the rate when a fraction ``progress`` of the run is done."""
        return self.beta * min(1.0, progress / self.warmup) if self.warmup else self.beta

    @property
    def requirements(self) -> Mapping[Capability, Requirement]:
        sampled = {
            WEIGHABLE: Requirement("estimates the rate by log q - log p at the draws", "kl='auto'")
        }
        return {**super().requirements, **(sampled if self.estimator == "sampled" else {})}

    def check(self, draw: Draw) -> None:
        super().check(draw)
        draw.rate_by(self.estimator)
        if draw.is_relaxed and not draw.has_closed_form_rate:
            raise ValueError(
                "the draws lie between codes, where log q - log p is no estimate of the rate, and "
                "q and p have no closed form; use draws 'straight_through', or a prior that has "
                "one with q (Categorical, Bernoulli)"
            )
        if self.free_bits and draw.rate_per_dimension is None:
            latent = draw.latents[0]
            raise ValueError(
                "free_bits needs a posterior and a prior with independent entries, and here q is "
                f"{type(latent.q).__name__} and p {type(latent.p).__name__}; use DiagonalNormal "
                "with StandardNormal or a diagonal Normal, or leave free_bits at 0"
            )

    def rate_name(self, draw: Draw) -> str:
        return "sampled" if self.estimator == "sampled" else super().rate_name(draw)

    def terms(self, draw: Draw, step: Step) -> Terms:
        rate = draw.rate_by(self.estimator)
        is_weighted = self.beta != 1 or self.warmup > 0
        loss = draw.distortion + (self.weight(step.progress) * rate if is_weighted else rate)
        extra = self.weight(step.progress) * self._free(draw) if self.free_bits else None
        return Terms(loss, draw.scores(rate, self.estimator), extra)

    def _free(self, draw: Draw) -> Tensor:
        """What turns the sum of the dimensions' mean rates into the sum of those, each at least
        ``free_bits``.
        """
        rates = draw.rate_per_dimension
        assert rates is not None  # check refused anything else
        return torch.relu(self.free_bits - rates.mean(0)).sum()
