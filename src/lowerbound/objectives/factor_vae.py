"""loss = distortion + rate + gamma * TC, TC = KL(q(z) ‖ prod_d q(z_d)) found by a critic: -ELBO +
gamma * total correlation.

A critic D(z) in (0, 1) that tells codes z ~ q(z) from codes whose entries were each taken from
another example of the batch, z ~ prod_d q(z_d), minimises

    -1/2 E_q(z)[log D(z)] - 1/2 E_prod[log(1 - D(z))]

and is best at D = q(z) / (q(z) + prod_d q(z_d)), where its logit is log q(z) - sum_d log q(z_d). So
the mean of the logit over q(z) is the total correlation. It is as right as the critic: one that
lags behind says another number.

The critic's parameters are the objective's own. They see codes without a gradient, and the model
sees the critic with its parameters held fixed, so neither learns from the other's loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lowerbound.compatibility import REALS, REPARAMETERISED, Capability, Requirement
from lowerbound.draw import Draw
from lowerbound.networks import MLP
from lowerbound.objective import Objective, Step, Terms
from lowerbound.parallel.shards import all_gather, batch_mean, own_rows, replicated
from lowerbound.shapes import NetworkFactory, Shape, as_shape, over_leading


class FactorVAE(Objective):
    """The ELBO less gamma times the total correlation of q(z), by a critic (Kim and Mnih 2018,
    arXiv 1802.05983).

    The log holds, each (B,) in nats, the unweighted elbo, rate and distortion,
    ``total_correlation`` as the critic sees it, and ``critic_loss``, which is log 2 = 0.69 where it
    cannot tell the two apart. The paper draws the entries that are mixed from a second batch; here
    they are those of the same batch, in an order of its own for every entry.

    Validation compares epochs whose critics differ; each epoch's total correlation is as right as
    its critic.

    Args:
        z_shape: Z, the event shape of the latent.
        gamma: weight of the total correlation.
        learning_rate: of the critic; the run's schedule multiplies it too.
        betas: decay rates of Adam's two moments, of the critic. The first is below Adam's 0.9,
            since what the critic is to learn moves with the model.
        network: makes the module Z -> (), the critic's logit.

    Raises:
        ValueError: a negative or non-finite gamma, a learning rate that is not positive, betas
            outside [0, 1); when model and objective meet, a latent of another shape, several
            latents, or a posterior that is not reparameterised.

    Example:
        >>> import lowerbound as lb
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal((2,)),
        ...     posterior=lb.posteriors.DiagonalNormal((4,), (2,)),
        ...     likelihood=lb.likelihoods.Bernoulli((2,), (4,)),
        ... )
        >>> terms = FactorVAE((2,), gamma=10.0).terms(
        ...     model(torch.ones(5, 4)), Step(progress=0.0, examples=5)
        ... )
        >>> terms.loss.shape, terms.own_loss.shape
        (torch.Size([5]), torch.Size([]))
        >>> sorted(terms.log)
        ['critic_loss', 'distortion', 'elbo', 'rate', 'total_correlation']
    """

    batch_statistics: ClassVar[bool] = True
    needs_one_latent: ClassVar[bool] = True

    def __init__(
        self,
        z_shape: Shape,
        gamma: float = 10.0,
        learning_rate: float = 1e-4,
        betas: tuple[float, float] = (0.5, 0.9),
        network: NetworkFactory = MLP,
    ) -> None:
        super().__init__()
        if not 0 <= gamma < math.inf:
            raise ValueError(
                f"gamma is {gamma}: the weight of the total correlation must be a finite number, "
                "at least 0"
            )
        if not 0 < learning_rate < math.inf:
            raise ValueError(f"learning_rate is {learning_rate}: it must be a positive number")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(
                f"betas is {tuple(betas)}: two numbers, each at least 0 and below 1, such as (0.5, "
                "0.9)"
            )
        self.z_shape = as_shape(z_shape, "the latent shape")
        self.gamma = gamma
        self.learning_rate = learning_rate
        self.betas = (betas[0], betas[1])
        self.network = network
        self.critic = network(self.z_shape, ())

    @property
    def is_bound(self) -> bool:
        return self.gamma == 0  # what a critic says may lie below the truth, and below zero

    @property
    def requirements(self) -> Mapping[Capability, Requirement]:
        return {
            REALS: Requirement("mixes the entries of codes of different examples", "ELBO"),
            REPARAMETERISED: Requirement("differentiates through draws", "ELBO"),
            **super().requirements,
        }

    @property
    def adam(self) -> Mapping[str, Any]:
        return {"lr": self.learning_rate, "betas": self.betas}

    def check(self, draw: Draw) -> None:
        super().check(draw)
        q = draw.latents[0].q
        if q.event_shape != self.z_shape:
            raise ValueError(
                f"FactorVAE has a critic of codes of shape {self.z_shape}, and those of "
                f"{type(q).__name__} are {tuple(q.event_shape)}; give it "
                f"z_shape={tuple(q.event_shape)}"
            )
        if not q.has_rsample:
            raise ValueError(
                f"FactorVAE differentiates through draws, and those of {type(q).__name__} are not "
                "reparameterised; use ELBO, or a posterior with rsample"
            )

    def terms(self, draw: Draw, step: Step) -> Terms:
        z = draw.latents[0].z
        rate = draw.rate
        correlation = draw.average(self.log_ratio(z))
        loss = draw.distortion + rate + self.gamma * correlation
        critic_loss = self.critic_loss(z.detach())
        log = {
            "total_correlation": correlation.detach(),
            "critic_loss": critic_loss.detach().mean(0),
        }
        return Terms(loss, {**draw.scores(rate), **log}, own_loss=batch_mean(critic_loss))

    def log_ratio(self, z: Tensor) -> Tensor:
        """The critic's log q(z) - sum_d log q(z_d), (K, B), with no gradient in its parameters."""
        fixed = {name: p.detach() for name, p in self.critic.named_parameters()}
        copies = {
            name: value.clone() for name, value in self.critic.named_buffers()
        }  # batch statistics move with its own loss
        flat = z.reshape(-1, *self.z_shape)
        logits: Tensor = torch.func.functional_call(self.critic, {**fixed, **copies}, (flat,))
        return logits.reshape(z.shape[: z.ndim - len(self.z_shape)]).to(z.dtype)

    def critic_loss(self, z: Tensor) -> Tensor:
        """What the critic minimises in mean, (K, B), of the codes of a batch (K, B, *Z)."""
        whole = all_gather(z, 1)
        with replicated():
            mixed = permuted(whole)
        both = over_leading(self.critic, torch.stack([z, own_rows(mixed, 1)]), self.z_shape, ())
        return 0.5 * (softplus(-both[0]) + softplus(both[1]))


def permuted(z: Tensor) -> Tensor:
    """Codes (K, B, *Z) with the examples in an order of its own for every draw and every entry: z ~
    prod_d q(z_d).
    """
    return z.gather(1, torch.rand_like(z).argsort(1))
