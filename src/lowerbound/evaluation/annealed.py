"""Annealed importance sampling: a stochastic lower bound on log p(x) (Neal 2001; Wu et al. 2017,
arXiv 1611.04273).

    log (1/C) sum_c w_c,   E[w_c] = p(x)

over C chains from q(z|x) or the prior to p(x, z) (:mod:`lowerbound.evaluation.annealing`): unbiased
weights whatever the number of temperatures, so that in expectation the logarithm of their mean is
at most log p(x), and close to it where they vary little.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lowerbound.checks import check_finite
from lowerbound.evaluation.annealing import LEAPFROG, Joint, Path, Plan, Start, Ticks
from lowerbound.roles import Context
from lowerbound.utils.allocator import retain_freed_memory
from lowerbound.utils.modes import evaluating
from lowerbound.utils.seeding import seeded


@dataclass(frozen=True)
class Annealed:
    """What C chains say about each of n examples, in nats.

    Args:
        log_w: log-weights of the chains, (C, n), float64.
        acceptance: share of trajectories that were accepted, (n,); nan where there is one
            temperature, and so no trajectory.
    """

    log_w: Tensor
    acceptance: Tensor

    @property
    def log_marginal(self) -> Tensor:
        """The stochastic lower bound on log p(x), (n,)."""
        return torch.logsumexp(self.log_w, 0) - math.log(len(self.log_w))


def annealed(
    model: Joint,
    x: Tensor,
    context: Context | None = None,
    chains: int = 16,
    temperatures: int = 200,
    leapfrog: int = LEAPFROG,
    start: Start = "posterior",
    seed: int | None = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Annealed:
    """A stochastic lower bound on log p(x) of each example by annealed importance sampling.

    Args:
        model: a model with continuous latents.
        x: the data, (n, *X).
        context: labels, mask and the like.
        chains: C, independent chains for each example.
        temperatures: T, densities between the start and the joint; the bound tightens with it.
        leapfrog: steps of a trajectory, each of which costs one gradient of log p(x, z).
        start: "posterior" starts at q(z|x), which is near; "prior" at p(z), which does not depend
            on q at all.
        seed: of the chains; None draws from torch's global generators, or from those of the
            seeded call that this one is part of.
        on_progress: called with (transitions done, transitions in all).

    Raises:
        ValueError: a count below 1, latents that are not continuous and unbounded, a score that is
            no log-density, or weights that are not finite.

    Example:
        >>> import lowerbound as lb
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal((2,)),
        ...     posterior=lb.posteriors.DiagonalNormal((4,), (2,)),
        ...     likelihood=lb.likelihoods.Bernoulli((2,), (4,)),
        ... )
        >>> annealed(model, torch.ones(5, 4), chains=3, temperatures=10, seed=0).log_marginal.shape
        torch.Size([5])
    """
    plan = Plan(chains, temperatures, leapfrog, start)
    context, x = context or Context(), torch.as_tensor(x)
    if not len(x):
        raise ValueError("there is no example: x is empty")
    parts = []
    # a Protocol cannot be a module
    with retain_freed_memory(), seeded(seed), evaluating(model):  # type: ignore[arg-type]
        size = plan.examples_at_a_time(model, x, context)
        ticks = Ticks(math.ceil(len(x) / size) * 2 * (temperatures - 1), on_progress)
        for first in range(0, len(x), size):
            rows = slice(first, first + size)
            path = Path(model, x[rows], context[rows], plan)
            parts.append(plan.forward(path, plan.adapt(path, ticks), ticks))
    log_w = torch.cat([part[0] for part in parts], 1)
    check_finite((~torch.isfinite(log_w)).sum(0), chains)
    return Annealed(log_w, torch.cat([part[1] for part in parts]))
