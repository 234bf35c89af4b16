"""The sandwich of bidirectional Monte Carlo: bounds on log p(x) from both sides, for data simulated
from the model.

x and z ~ p(x, z) make z an exact sample of p(z|x). Chains from there back to the start give E[1/w]
= 1 / p(x), so that -log (1/C) sum_c 1/w_c is, in expectation, at least log p(x); chains forwards
give a lower bound (Grosse, Ghahramani and Adams 2015, arXiv 1511.02543; Wu, Burda, Salakhutdinov
and Grosse 2017, arXiv 1611.04273).
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
from lowerbound.utils.modes import evaluating
from lowerbound.utils.seeding import seeded


@dataclass(frozen=True)
class Sandwich:
    """Bounds on log p(x) of n examples that were simulated from the model, each (n,), in nats.

    Args:
        x: the examples, (n, *X).
        lower: in expectation at most log p(x).
        upper: in expectation at least log p(x).
        acceptance: share of trajectories that were accepted.
    """

    x: Tensor
    lower: Tensor
    upper: Tensor
    acceptance: Tensor


def sandwich(
    model: Joint,
    n: int = 100,
    chains: int = 16,
    temperatures: int = 200,
    leapfrog: int = LEAPFROG,
    start: Start = "posterior",
    context: Context | None = None,
    seed: int | None = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Sandwich:
    """Lower and upper bounds on log p(x) of examples simulated from the model, where an exact
    sample of p(z|x) is known.

    A narrow sandwich says that annealing with these settings finds log p(x) of data like those that
    the model makes; how like them the real data are it does not say.

    Args:
        model: a model with continuous latents.
        n: examples to simulate.
        chains: C, for each example and each of the two directions.
        temperatures: T.
        leapfrog: steps of a trajectory.
        start: the other end of the path, as in :func:`annealed`.
        context: labels and the like, of n examples or one for all: log p(x|y) is bounded where the
            model is conditioned.
        seed: of the simulation and the chains; None draws from torch's global generators, or from
            those of the seeded call that this one is part of.
        on_progress: called with (transitions done, transitions in all).

    Raises:
        ValueError: as in :func:`annealed`.

    Example:
        >>> import lowerbound as lb
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal((2,)),
        ...     posterior=lb.posteriors.DiagonalNormal((4,), (2,)),
        ...     likelihood=lb.likelihoods.Bernoulli((2,), (4,)),
        ... )
        >>> bounds = sandwich(model, n=5, chains=8, temperatures=20, seed=0)
        >>> (bounds.upper - bounds.lower).abs().max() < 1
        tensor(True)
    """
    plan = Plan(chains, temperatures, leapfrog, start)
    if n < 1:
        raise ValueError(f"n is {n}: at least 1 example must be simulated")
    context = (context or Context()).repeated(n)
    parts = []
    with seeded(seed), evaluating(model):  # type: ignore[arg-type]  # a Protocol cannot be a module
        x, latents = model.sample_joint(n, context)
        size = plan.examples_at_a_time(model, x, context)
        ticks = Ticks(math.ceil(n / size) * 3 * (temperatures - 1), on_progress)
        for first in range(0, n, size):
            rows = slice(first, first + size)
            path = Path(model, x[rows], context[rows], plan)
            steps = plan.adapt(path, ticks)
            lower, accepted = plan.forward(path, steps, ticks)
            upper, accepted_back = plan.backward(
                path, steps, tuple(z[rows] for z in latents), ticks
            )
            parts.append((lower, upper, (accepted + accepted_back) / 2))
    lower, upper = (torch.cat([part[i] for part in parts], 1) for i in (0, 1))
    check_finite((~torch.isfinite(lower) | ~torch.isfinite(upper)).sum(0), chains)
    return Sandwich(
        x=x,
        lower=torch.logsumexp(lower, 0) - math.log(chains),
        upper=math.log(chains) - torch.logsumexp(upper, 0),
        acceptance=torch.cat([part[2] for part in parts]),
    )
