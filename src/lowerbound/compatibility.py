"""What a part offers and what it needs of the others: what cannot be composed is refused in one
line, before any work.

A part declares both as data, and so does an objective. None of them names another part, so that a
part from elsewhere is composed, or refused, by the same words. A part is taken to offer what is
usual in its role (:class:`~lowerbound.roles.Posterior` and its like say what that is) unless it
says otherwise:

    capabilities = Posterior.capabilities - {EVALUABLE}
    requirements = {
        EVALUABLE: Requirement("evaluates q(z|x) at the draws of other examples", "Mixture")
    }
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Protocol


@dataclass(frozen=True)
class Capability:
    """Something that the parts of one role may have, and others may need.

    Args:
        role: whose it is: prior, posterior or likelihood.
        lack: what is true of a part without it, as it follows the part's name.
        remedy: the parts that have it.
    """

    role: str
    lack: str
    remedy: str


@dataclass(frozen=True)
class Requirement:
    """Why something is needed, and what does without.

    Args:
        reason: what the one in need does, as it follows its name.
        instead: what to use in its place.
    """

    reason: str
    instead: str


EVALUABLE = Capability(
    "posterior",
    "knows log q(z|x) at its own draws alone",
    "a posterior that can be evaluated at any z (DiagonalNormal, FullNormal)",
)
"""log q(z|x) at any z, and not at the draws of that same call alone."""

REPARAMETERISED = Capability(
    "posterior",
    "draws z without a gradient",
    "a posterior with reparameterised draws (DiagonalNormal, FullNormal)",
)
"""Draws through which gradients reach the posterior's parameters."""

FACTORISED = Capability(
    "posterior",
    "has entries of z that depend on each other",
    "a posterior with independent entries (DiagonalNormal)",
)
"""A density that is a product over the entries of z: its distribution is an Independent over
scalars.
"""

MOVABLE = Capability(
    "prior",
    "draws z without a gradient in its parameters",
    "a prior with reparameterised draws (StandardNormal, Normal)",
)
"""Draws through which gradients reach the prior's parameters, if it has any."""

PATHWISE = Capability(
    "posterior",
    "draws z from no density",
    "a posterior that does (DiagonalNormal, FullNormal, or codes with draws 'concrete')",
)
"""Draws from a density, so that the gradient along z and that of log q are two forms of one."""

WEIGHABLE = Capability(
    "posterior",
    "draws z between codes, where p(z) and q(z|x) are no probabilities",
    "draws 'concrete' or 'straight_through'",
)
"""Draws at which p(z) and q(z|x) are what they are: probabilities or densities."""

SAMPLED = Capability("posterior", "enumerates z", "draws 'concrete' or 'straight_through'")
"""Draws of z, and not all its values."""

REALS = Capability(
    "posterior", "gives codes", "a posterior on the real line (DiagonalNormal, FullNormal)"
)
"""z with real entries."""

VECTORS = Capability("posterior", "gives none", "the posterior Categorical")
"""z made of unit vectors, one for each categorical variable."""

BITS = Capability("posterior", "gives none", "the posterior Bernoulli")
"""z made of zeros and ones."""

UNCONDITIONED = Capability("posterior", "is given y", "a posterior without a condition")
"""q(z|x) of x alone."""

OWN = Capability(
    "prior", "is made of q", "a prior with parameters of its own (Mixture, StandardNormal)"
)
"""A p(z) that does not depend on the posterior's parameters."""

CODEBOOK = Capability("posterior", "has no codebook", "the posterior VectorQuantised")
"""z put together from the vectors of a codebook."""

LOG_DENSITY = Capability(
    "likelihood",
    "is a score of x and no log-density",
    "a likelihood (Bernoulli on binarised data, ContinuousBernoulli, Categorical, Normal)",
)
"""log p(x|z) as a density or a probability."""


class Composed(Protocol):
    """A part of any role, or an objective."""

    @property
    def role(self) -> str:
        """Prior, posterior, likelihood or objective, in small letters."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What it has."""

    @property
    def requirements(self) -> Mapping[Capability, Requirement]:
        """What it asks of the part of another role, and why."""


def conflict(*parts: Composed) -> str | None:
    """Why these parts cannot be composed, in one line; None where they can.

    Example:
        >>> import lowerbound as lb
        >>> score = lb.likelihoods.BinaryCrossEntropy((2,), (4,))
        >>> conflict(score, lb.objectives.ELBO()) is None
        True
        >>> print(conflict(score, lb.objectives.IWAE()).partition(" and ")[2].partition(";")[0])
        BinaryCrossEntropy is a score of x and no log-density
    """
    for needy, asked in permutations(parts, 2):
        for capability, requirement in needy.requirements.items():
            if asked.role == capability.role and capability not in asked.capabilities:
                names = type(needy).__name__, type(asked).__name__
                return (
                    f"{names[0]} {requirement.reason}, and {names[1]} {capability.lack}; use "
                    f"{requirement.instead}, or {capability.remedy}"
                )
    return None


def check_composed(*parts: Composed) -> None:
    """Refuse parts that exclude each other.

    Raises:
        ValueError: which two, why, and what would fit.
    """
    reason = conflict(*parts)
    if reason:
        raise ValueError(reason)
