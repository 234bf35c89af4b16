"""Objectives: functions of a draw. What is minimised is called ``loss``; every bound is larger when
better.

An objective is a module, so that one with parameters of its own (a critic) is trained, saved and
resumed by the same loop; most have none. Two losses are then minimised at once, each in parameters
that the other does not move: the model's in the model's, and ``Terms.own_loss`` in the objective's.
Their sum is differentiated once, so each must be cut off from the other's parameters (``detach``,
or ``torch.func.functional_call`` with detached ones).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from lowerbound.compatibility import (
    EVALUABLE,
    LOG_DENSITY,
    REPARAMETERISED,
    Capability,
    Requirement,
    check_composed,
)
from lowerbound.draw import Draw
from lowerbound.parallel.shards import batch_mean
from lowerbound.roles import Part


@dataclass(frozen=True)
class JointSample:
    """Pairs from the model, x ~ p(x|z) and z ~ p(z), as many as the batch has examples, and what q
    says of them.

    Args:
        x: (B, *X), without gradients.
        latents: z, each (B, *Z), without gradients.
        log_q: log q(z|x), (B,), nats, summed over the latents, with gradients in q's parameters
            alone.
    """

    x: Tensor
    latents: tuple[Tensor, ...]
    log_q: Tensor


@dataclass(frozen=True)
class Step:
    """What an objective may ask of the training loop.

    Args:
        progress: how much of the run is done, in [0, 1]; it drives every schedule.
        examples: number of training examples.
        joint_sample: pairs from the model, for an objective that says ``needs_joint_sample``.
    """

    progress: float
    examples: int
    joint_sample: JointSample | None = None


@dataclass(frozen=True)
class Terms:
    """What an objective makes of a draw.

    Args:
        loss: to be averaged over the batch and minimised, (B,).
        log: named quantities of each example, (B,), unweighted.
        batch_loss: a statistic of the whole batch to be added to the mean, (), or None.
        own_loss: what the objective's own parameters minimise, (), or None where it has none. It is
            no part of the loss, so it is neither reported as one nor chooses weights by validation.
    """

    loss: Tensor
    log: Mapping[str, Tensor] = field(default_factory=dict)
    batch_loss: Tensor | None = None
    own_loss: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """The scalar that the model minimises."""
        mean = batch_mean(self.loss)
        return mean if self.batch_loss is None else mean + self.batch_loss

    @property
    def both(self) -> Tensor:
        """The scalar that is differentiated: the model's loss and the objective's own."""
        return self.total if self.own_loss is None else self.total + self.own_loss


PATH = Requirement(
    "takes path gradients, for which log q(z|x) is evaluated at its draws a second time",
    "an objective with ordinary ones (ELBO, IWAE)",
)


REPARAMETERISATION = Requirement("differentiates through draws", "ReweightedWakeSleep")


class Objective(nn.Module, ABC):
    """A loss for training.

    Attributes:
        samples: K, how many draws it wants for each example.
        path_gradient: whether it wants draws whose log q has no gradient through q's own
            parameters. What the posterior's parameters get is then not the gradient of the loss's
            value, and has its mean; all other parameters get that gradient.
        reparameterised: whether gradients are to reach the posterior through z; False for an
            objective that learns q by log q at draws that stay where they are.
        needs_joint_sample: whether it wants pairs (x, z) from the model beside each batch
            (:class:`JointSample`).
        needs_one_latent: whether it is about a single latent; a draw of several is refused.
        requirements: what it asks of the model's parts, with the reason
            (:mod:`lowerbound.compatibility`); others are refused.
        is_bound: whether -loss is, in expectation, at most log p(x).
        rate_name: how the rate in its log was found, for the record.
        batch_statistics: whether it compares the examples of a batch with each other, so that it
            needs more than one, and its value depends on how many there are. Where several
            processes share a batch, it is taken from the whole of it
            (:func:`~lowerbound.parallel.shards.all_gather`), and an ``own_loss`` is a mean by
            :func:`~lowerbound.parallel.shards.batch_mean`.
        adam: settings of Adam for its own parameters.
    """

    role: ClassVar[str] = "objective"
    capabilities: frozenset[Capability] = frozenset()
    samples: int = 1
    path_gradient: bool = False
    batch_statistics: ClassVar[bool] = False
    needs_one_latent: ClassVar[bool] = False
    reparameterised: bool = True
    needs_joint_sample: bool = False
    __call__: Callable[..., Terms]

    @property
    def requirements(self) -> Mapping[Capability, Requirement]:
        """What it asks of the model's parts, and why."""
        reparameterised = {REPARAMETERISED: REPARAMETERISATION} if self.reparameterised else {}
        return reparameterised | ({EVALUABLE: PATH} if self.path_gradient else {})

    @property
    @abstractmethod
    def is_bound(self) -> bool:
        """Whether -loss is, in expectation, at most log p(x)."""

    @property
    def adam(self) -> Mapping[str, Any]:
        """Settings of Adam for its own parameters (lr, betas, eps), where they are not those of the
        run.

        The schedule of the run multiplies the learning rate that is given here.
        """
        return {}

    def check(self, draw: Draw) -> None:
        """Refuse a draw that does not give what is needed; called when model and objective first
        meet.

        An objective that asks for more calls this one first (``super().check(draw)``).

        Raises:
            ValueError: several latents where it is about one; a score of x that is no log-density
                where its requirements name one.
        """
        name, latents = type(self).__name__, len(draw.latents)
        if self.needs_one_latent and latents != 1:
            raise ValueError(f"{name} is about one latent, and this model has {latents}; use ELBO")
        density = self.requirements.get(LOG_DENSITY)
        if density is not None and not draw.is_density:
            raise ValueError(
                f"{name} {density.reason}, and this model scores x by binary cross-entropy, which "
                f"is no density; use {density.instead}, or {LOG_DENSITY.remedy}"
            )

    def rate_name(self, draw: Draw) -> str:
        """How the rate in the log was found: "closed form" or "sampled"."""
        return "closed form" if draw.has_closed_form_rate else "sampled"

    def forward(self, draw: Draw, step: Step) -> Terms:
        """What is minimised: :meth:`terms`, and what the model's parts add to the loss, in full.

        Example:
            >>> import lowerbound as lb, torch
            >>> from dataclasses import replace
            >>> model = lb.VAE(
            ...     prior=lb.priors.StandardNormal((2,)),
            ...     posterior=lb.posteriors.DiagonalNormal((4,), (2,)),
            ...     likelihood=lb.likelihoods.Bernoulli((2,), (4,)),
            ... )
            >>> draw = replace(model(torch.ones(5, 4)), penalties={"commitment": torch.ones(5)})
            >>> objective, step = lb.objectives.ELBO(beta=4.0), Step(progress=1.0, examples=5)
            >>> torch.equal(objective(draw, step).loss, objective.terms(draw, step).loss + 1)
            True
        """
        terms = self.terms(draw, step)
        loss = terms.loss
        for penalty in draw.penalties.values():
            loss = loss + penalty
        return Terms(loss, terms.log, terms.batch_loss, terms.own_loss)

    @abstractmethod
    def terms(self, draw: Draw, step: Step) -> Terms:
        """The loss of a draw, without the penalties that the model's parts ask for: calling the
        objective adds those (:meth:`forward`).
        """


def check_parts(objective: Objective, model: nn.Module) -> None:
    """Refuse a model one of whose parts lacks what the objective needs; called before the two first
    meet.

    Raises:
        ValueError: which part, why, and what would fit.
    """
    for part in model.modules():
        if isinstance(part, Part):
            check_composed(objective, part)
