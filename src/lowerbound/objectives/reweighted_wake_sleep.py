"""loss = -log sum_k m_k w_k, the importance-weighted bound, for p; and for q another: -log q(z|x)
at z drawn by p's weights.

Two models learn in turns from each other. With the weights v = softmax_k(log w_k + log m_k) of
draws z_k ~ q(z|x),

    wake, of p    -sum_k v_k d log p(x, z_k): the gradient of the importance-weighted bound at fixed
                  draws
    wake, of q    -sum_k v_k d log q(z_k|x): towards the posterior p(z|x) that the draws stand for,
                  KL(p(z|x) ‖ q(z|x))
    sleep, of q   -d log q(z|x) at z, x ~ p(z) p(x|z), pairs that the model dreams: KL(p(z|x) ‖
                  q(z|x)) over p(x)

No gradient passes through a draw, so that z may be discrete and need not be relaxed, and with more
draws all three get better: v tends to p(z|x), and the bound to log p(x). The two parts of the
gradient are those of two losses. The value of the loss is that of p's, the negative bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

from lowerbound.checks import check_samples
from lowerbound.compatibility import EVALUABLE, LOG_DENSITY, OWN, Capability, Requirement
from lowerbound.draw import Draw
from lowerbound.objective import Objective, Step, Terms

Phase = Literal["wake", "sleep", "both"]


class ReweightedWakeSleep(Objective):
    """Reweighted wake-sleep (Bornschein and Bengio 2015, arXiv 1406.2751; Le, Kosiorek, Siddharth,
    Teh and Wood 2019, arXiv 1805.10469).

    The log holds the bound as ``iwae``, in nats, beside the unweighted elbo, rate and distortion of
    the same draws, and what q minimises as ``log_q_wake`` and ``log_q_sleep``, each (B,).

    Args:
        samples: K, draws for each example.
        phase: how q learns: "wake" from the data, "sleep" from the model's dreams, "both" from half
            of each.

    Raises:
        ValueError: no samples, or another phase; when model and objective meet, a score that is no
            log-density, a posterior that knows log q at its own draws alone, or a prior that is
            made of the posterior.

    Example:
        >>> import lowerbound as lb, torch
        >>> model = lb.VAE(
        ...     prior=lb.priors.Categorical((8, 4)),
        ...     posterior=lb.posteriors.Categorical((4,), (8, 4), draws="sampled"),
        ...     likelihood=lb.likelihoods.Bernoulli((8, 4), (4,)),
        ... )
        >>> draw = model(torch.ones(5, 4), samples=10, reparameterised=False)
        >>> terms = ReweightedWakeSleep(samples=10).terms(draw, Step(progress=0.0, examples=5))
        >>> torch.equal(terms.log["iwae"], -terms.loss)
        True
    """

    reparameterised = False

    def __init__(self, samples: int = 5, phase: Phase = "wake") -> None:
        super().__init__()
        check_samples(samples)
        if phase not in ("wake", "sleep", "both"):
            raise ValueError(f"phase is {phase!r}; there is 'wake', 'sleep' and 'both'")
        self.samples = samples
        self.phase: Phase = phase
        self.needs_joint_sample = phase != "wake"

    @property
    def is_bound(self) -> bool:
        return True

    @property
    def requirements(self) -> Mapping[Capability, Requirement]:
        return {
            LOG_DENSITY: Requirement("weighs draws by p(x, z) / q(z|x)", "ELBO"),
            OWN: Requirement("teaches p and q apart", "ELBO"),
            EVALUABLE: Requirement("scores by q(z|x) what it has not drawn at the time", "ELBO"),
            **super().requirements,
        }

    def terms(self, draw: Draw, step: Step) -> Terms:
        log_q, log_m = draw.log_qz, draw.log_m.detach()
        bound = (draw.log_px + draw.log_pz - log_q.detach() + log_m).logsumexp(
            0
        )  # its gradient is that of p
        weights = (draw.log_w + log_m).detach().softmax(0)
        phases = {"wake": -(weights * log_q).sum(0)}
        if self.needs_joint_sample:
            if step.joint_sample is None:
                raise ValueError(
                    f"phase {self.phase!r} learns from joint samples of the model, and this step "
                    "has no joint sample"
                )
            phases["sleep"] = -step.joint_sample.log_q
        of_q = (
            torch.stack([*phases.values()]).mean(0) if self.phase == "both" else phases[self.phase]
        )
        loss = -bound + (of_q - of_q.detach())  # its gradient without its value
        log = {**draw.scores(draw.rate), "iwae": bound.detach()}
        return Terms(
            loss, log | {f"log_q_{name}": -loss_of_q.detach() for name, loss_of_q in phases.items()}
        )
