"""Where the bound is lost: in the family of q, or in the network that chooses q.

    log p(x) - ELBO(q)  =  [log p(x) - ELBO(q*)]  +  [ELBO(q*) - ELBO(q)]
                           approximation gap         amortisation gap

with q* the best member of q's family for each example (Cremer, Li and Duvenaud 2018, arXiv
1801.03558), as far as it was found (:func:`~lowerbound.evaluation.refined`), and log p(x) by
annealed importance sampling. log p(x) is a lower bound in expectation, which makes the
approximation gap too small, and ELBO(q*) falls short of the maximum, which makes it too large and
the amortisation gap too small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowerbound.evaluation.annealed import annealed
from lowerbound.evaluation.annealing import LEAPFROG, MAX_CHAIN_VALUES, Path, Plan, doubts
from lowerbound.evaluation.estimate import Estimate
from lowerbound.evaluation.evidence import evidence
from lowerbound.evaluation.refined import REFINING, refined
from lowerbound.model import Model
from lowerbound.roles import Context
from lowerbound.utils.memory import values_held
from lowerbound.utils.modes import evaluating
from lowerbound.utils.seeding import seeded

# for each ELBO: its own noise, sd(log w) / sqrt(1000), is then a tenth of a nat or less for each
# example
DRAWS = 1000
REFINED_AT_ONCE = 100  # examples that are refined at a time, where their p(x|z) is not too large
CLEAR = 2.0  # standard errors below 0 at which a gap that cannot be negative is said to be


@dataclass(frozen=True)
class Gaps:
    """What the bound loses and where, nats.

    Args:
        elbo: with q(z|x) from the encoder.
        refined_elbo: with q* of each example.
        log_marginal: log p(x) by annealed importance sampling.
        approximation_gap: log_marginal - refined_elbo, paired by example.
        amortisation_gap: refined_elbo - elbo, paired by example.
        warnings: in words: where the parts cannot be what they are called.
    """

    elbo: Estimate
    refined_elbo: Estimate
    log_marginal: Estimate
    approximation_gap: Estimate
    amortisation_gap: Estimate
    warnings: tuple[str, ...] = ()

    @property
    def estimates(self) -> dict[str, Estimate]:
        """Every number by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Estimate)}

    def as_json(self) -> dict[str, Any]:
        """By name, for a program to read."""
        return {
            **{name: estimate.as_json() for name, estimate in self.estimates.items()},
            "warnings": list(self.warnings),
        }

    def __str__(self) -> str:
        rows = [*self.estimates.items(), *(("warning", words) for words in self.warnings)]
        return "\n".join(f"{name:>17}  {words}" for name, words in rows)


def gaps(
    model: Model,
    x: Tensor,
    context: Context | None = None,
    steps: int = 500,
    chains: int = 16,
    temperatures: int = 200,
    seed: int | None = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Gaps:
    """The approximation gap and the amortisation gap, as means over examples.

    Args:
        model: a model with continuous latents.
        x: examples, (n, *X).
        context: labels, mask and the like.
        steps: of the refinement of q.
        chains: of annealing, for each example.
        temperatures: of annealing.
        seed: of all draws; None draws from torch's global generators, or from those of the
            seeded call that this one is part of.
        on_progress: called with (work done, work in all).

    Raises:
        ValueError: as :func:`~lowerbound.evaluation.refined` and
            :func:`~lowerbound.evaluation.annealed` do.

    Example:
        >>> import lowerbound as lb
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal((2,)),
        ...     posterior=lb.posteriors.DiagonalNormal((4,), (2,)),
        ...     likelihood=lb.likelihoods.Bernoulli((2,), (4,)),
        ... )
        >>> result = gaps(model, torch.eye(4), steps=100, chains=4, temperatures=20)
        >>> result.amortisation_gap.value > 0
        True
    """
    context, x = context or Context(), torch.as_tensor(x)
    if not len(x):
        raise ValueError("there is no example: x is empty")
    plan = Plan(chains, temperatures, LEAPFROG, "posterior")
    with seeded(0):
        Path(model, x[:1], context[:1], plan)  # what annealing refuses needs no other work
    before, after = [], []

    def share(first: float, last: float) -> Callable[[int, int], None]:
        """Progress of a part of the work that begins and ends at these shares of all of it."""

        def tell(done: int, total: int) -> None:
            if on_progress:
                on_progress(round(1000 * (first + (last - first) * done / total)), 1000)

        return tell

    posterior = model.refinable
    with torch.no_grad(), seeded(seed), evaluating(model):
        held = values_held(model(x[:1], context[:1]).px)
        size = max(1, min(REFINED_AT_ONCE, MAX_CHAIN_VALUES // (REFINING * max(1, held))))
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            batch, its_context = x[rows], context[rows]
            in_refining = share(0.5 * start / len(x), 0.5 * min(1.0, (start + size) / len(x)))
            before.append(_elbo(model, batch, its_context))
            with refined(model, posterior, batch, its_context, steps, on_progress=in_refining):
                after.append(_elbo(model, batch, its_context))
        annealing = annealed(
            model, x, context, chains, temperatures, seed=None, on_progress=share(0.5, 1.0)
        )
    elbo, best = torch.cat(before).cpu().double(), torch.cat(after).cpu().double()
    approximation, amortisation = (
        Estimate.over(annealing.log_marginal - best),
        Estimate.over(best - elbo),
    )
    warnings = doubts(annealing.acceptance)
    if approximation.value < -CLEAR * approximation.stderr:
        warnings.append(
            "annealing has not even reached the ELBO, so log p(x) is larger: take more "
            "temperatures or chains"
        )
    if amortisation.value < -CLEAR * amortisation.stderr:
        warnings.append(
            "the refined q is worse than the encoder's, so it was not found: take more steps"
        )
    return Gaps(
        elbo=Estimate.over(elbo),
        refined_elbo=Estimate.over(best),
        log_marginal=Estimate.over(annealing.log_marginal),
        approximation_gap=approximation,
        amortisation_gap=amortisation,
        warnings=tuple(warnings),
    )


def _elbo(model: Model, x: Tensor, context: Context) -> Tensor:
    weighted = evidence(model, x, context, DRAWS)
    return -weighted.distortion - weighted.rate
