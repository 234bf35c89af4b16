"""loss = distortion + alpha * MI + beta * TC + gamma * dimension-wise KL: the three parts of the
rate.

With q(z) = 1/N sum_n q(z|x_n), the aggregate over the N training examples, and z drawn from it by
way of an example,

    E KL(q(z|x) ‖ p(z)) = E[log q(z|x) - log q(z)]              mutual information of the example's
    index and its code
                        + E[log q(z) - sum_d log q(z_d)]        total correlation, KL(q(z) ‖ prod_d
                        q(z_d)) + E[sum_d log q(z_d) - log p(z)]        dimension-wise KL, where p
                        has independent entries.

A batch of B examples, drawn without replacement, that holds the one z came from, says about q(z),
by strata: the example itself, which is one of the N, and the others, which stand for the remaining
N - 1,

    q(z) ~ 1/N q(z|x) + (N - 1) / (N (B - 1)) sum_others q(z|x_m),

and likewise about each q(z_d). That is unbiased for q(z) over the batches, and exact at B = N. (The
paper gives one of the others another weight, (N - M) / (N M) beside 1/M with M = B - 1; averaged
over which one it is, that is this.) Its logarithm is biased downwards, so that mutual information
is overestimated, the more so the fewer examples a batch has.

q(z) is that of the N examples, and no smooth cloud: the mutual information is at most log N, so
that a rate beyond it counts as total correlation, at least rate - log N - dimension-wise KL of it.
A critic (FactorVAE) that sees the codes as a cloud does not find that part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor
from torch.distributions import Distribution, Independent

from lowerbound.checks import check_samples
from lowerbound.compatibility import (
    EVALUABLE,
    FACTORISED,
    SAMPLED,
    WEIGHABLE,
    Capability,
    Requirement,
)
from lowerbound.draw import Draw, Latent, RateEstimator
from lowerbound.objective import Objective, Step, Terms
from lowerbound.parallel.shards import all_gather, all_gather_logsumexp, own_rows


class BetaTC(Objective):
    """The ELBO with a weight for each part of the rate (beta-TCVAE: Chen, Li, Grosse and Duvenaud
    2018, arXiv 1802.04942).

    The log holds ``mutual_information``, ``total_correlation`` and ``dimension_wise_kl``,
    unweighted, each (B,) in nats, beside the elbo, rate and distortion; the three sum to the rate.
    The last is left out for a prior whose entries depend on each other, where the rest of the rate
    is no KL.

    In validation N is the number of training examples too, and the batch one of validation
    examples: what is reported is an estimate for N examples like those, comparable with training's
    but for the bias, which falls with the size of the batch; and the same examples in other batches
    give other values. A batch of one example is its own aggregate.

    Time and memory go with K B^2 D.

    Args:
        alpha: weight of the mutual information.
        beta: weight of the total correlation.
        gamma: weight of the dimension-wise KL. With all three at 1 the loss is the negative ELBO.
        kl: of the rate: "auto" takes the closed form where the pair of distributions has one and
            the draws otherwise; "closed_form" insists; "sampled" takes the draws, as the paper
            does.
        samples: K, draws for each example.

    Raises:
        ValueError: a negative or non-finite weight, no samples, an unknown kl; when model and
            objective meet, several latents, a posterior whose entries depend on each other or that
            knows its density at its own draws alone.

    Example:
        >>> BetaTC(beta=6.0).is_bound, BetaTC(alpha=1.0, beta=1.0, gamma=1.0).is_bound
        (False, True)
        >>> import torch, lowerbound as lb
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal((2,)),
        ...     posterior=lb.posteriors.DiagonalNormal((4,), (2,)),
        ...     likelihood=lb.likelihoods.Bernoulli((2,), (4,)),
        ... )
        >>> log = (
        ...     BetaTC(beta=6.0)
        ...     .terms(model(torch.ones(5, 4)), Step(progress=0.0, examples=100))
        ...     .log
        ... )
        >>> parts = log["mutual_information"] + log["total_correlation"] + log["dimension_wise_kl"]
        >>> torch.allclose(parts, log["rate"], atol=1e-5)
        True
    """

    batch_statistics: ClassVar[bool] = True
    needs_one_latent: ClassVar[bool] = True

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 6.0,
        gamma: float = 1.0,
        kl: RateEstimator = "auto",
        samples: int = 1,
    ) -> None:
        super().__init__()
        for name, weight in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
            if not 0 <= weight < math.inf:
                raise ValueError(
                    f"{name} is {weight}: a weight must be a finite number, at least 0"
                )
        if kl not in ("auto", "closed_form", "sampled"):
            raise ValueError(f"kl is {kl!r}; there is 'auto', 'closed_form' and 'sampled'")
        check_samples(samples)
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
        self.kl: RateEstimator = kl
        self.samples = samples

    @property
    def is_bound(self) -> bool:
        """Only where the total correlation gets no weight of its own: its estimate may lie below
        zero.

        The loss is then distortion + gamma * rate + (alpha - gamma) * MI, and the estimate of MI is
        at least MI in mean.
        """
        return 1 <= self.gamma == self.beta <= self.alpha

    @property
    def requirements(self) -> Mapping[Capability, Requirement]:
        return {
            EVALUABLE: Requirement("evaluates q(z|x) at the draws of other examples", "FactorVAE"),
            WEIGHABLE: Requirement("estimates densities at its draws", "ELBO"),
            SAMPLED: Requirement("estimates q(z) from one draw for each example", "ELBO"),
            FACTORISED: Requirement("takes q(z|x) apart into its entries", "FactorVAE"),
            **super().requirements,
        }

    def check(self, draw: Draw) -> None:
        super().check(draw)
        draw.rate_by(self.kl)
        q = draw.latents[0].q
        if not has_independent_entries(q):
            raise ValueError(
                f"BetaTC takes q(z|x) apart into its entries, and in {type(q).__name__} they "
                "depend on each other; use FactorVAE, or a posterior with independent entries "
                "(DiagonalNormal)"
            )

    def rate_name(self, draw: Draw) -> str:
        return "sampled" if self.kl == "sampled" else super().rate_name(draw)

    def terms(self, draw: Draw, step: Step) -> Terms:
        latent = draw.latents[0]
        rate = draw.rate_by(self.kl)
        information, correlation = (
            draw.average(part) for part in decomposed(latent, step.examples)
        )
        loss = draw.distortion + self.gamma * rate
        loss = (
            loss + (self.alpha - self.gamma) * information + (self.beta - self.gamma) * correlation
        )
        log = {
            "mutual_information": information.detach(),
            "total_correlation": correlation.detach(),
        }
        if has_independent_entries(latent.p):
            log["dimension_wise_kl"] = (rate - information - correlation).detach()
        return Terms(loss, {**draw.scores(rate), **log})


def decomposed(latent: Latent, examples: int) -> tuple[Tensor, Tensor]:
    """Log q(z|x) - log q(z) and log q(z) - sum_d log q(z_d) at every draw of a whole batch, (K, B)
    each, nats.

    Args:
        latent: z (K, B, *Z) and a posterior with independent entries, batch (B,).
        examples: N, how many q(z) is an average over.
    """
    assert isinstance(latent.q, Independent)
    # entry by entry, of every z at every posterior of the batch: (K, B, B, D)
    # of which several processes have a part of the posteriors each
    table: Tensor = latent.q.base_dist.log_prob(all_gather(latent.z, 1).unsqueeze(2))
    table = table.reshape(*table.shape[:3], -1)
    log_weights = own_rows(stratified(table.shape[1], examples, table), 1)
    joint = own_rows(all_gather_logsumexp(table.sum(-1) + log_weights, 2), 1)
    product = own_rows(all_gather_logsumexp(table + log_weights[..., None], 2), 1).sum(-1)
    return latent.log_q - joint, joint - product


def stratified(batch: int, examples: int, like: Tensor) -> Tensor:
    """Log weights of the posteriors of a batch in the estimate of q(z) at each example's z: (B of
    z, B of q).
    """
    if batch == 1:
        return like.new_zeros(1, 1)
    weights = like.new_full((batch, batch), (examples - 1) / (examples * (batch - 1)))
    return weights.fill_diagonal_(1 / examples).log()


def has_independent_entries(distribution: Distribution) -> bool:
    """Whether the density is a product over the entries of z, each of which can be asked for."""
    return isinstance(distribution, Independent) and not distribution.base_dist.event_shape
