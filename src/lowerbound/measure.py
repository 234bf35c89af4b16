"""Evaluation: every example of a split exactly once, and an estimate with its standard error out.

nll = -L_K, an upper bound on -log p(x) in expectation; elbo = -rate - distortion;
bits_per_dim = nll / (D log 2) for discrete data, and (nll + D log L) / (D log 2) for a density on data dequantised from
L levels, where it bounds the bits of the levels (:class:`~lowerbound.transforms.Dequantise`). Any other density has none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lowerbound.checks import check_data
from lowerbound.dataset import Dataset
from lowerbound.evaluation import active_units, evidence
from lowerbound.modes import evaluating
from lowerbound.nats import Estimate
from lowerbound.objective import Objective, Step
from lowerbound.roles import Context
from lowerbound.seeding import seeded
from lowerbound.shapes import numel
from lowerbound.vae import VAE

SAMPLES = 100  # L_100 is within a nat of L_5000 on MNIST-sized models and takes seconds; papers use 5000


@dataclass(frozen=True)
class Evaluation:
    """What a model is worth on one split. A quantity that does not exist for the model is None.

    Args:
        split: the split.
        samples: K, draws for each example.
        n: number of examples.
        estimator: what nll is, in words.
        elbo: the evidence lower bound, nats; larger is better.
        nll: -log p(x) by K importance-weighted samples, nats; smaller is better.
        bits_per_dim: nll of discrete data in bits per dimension; of a density on dequantised data, of the levels.
        rate: KL(q(z|x) ‖ p(z)), nats.
        distortion: -E_q[log p(x|z)], nats.
        cross_entropy: binary cross-entropy, where the model was trained by it; no likelihood.
        objective: what was minimised, where the model was trained by cross-entropy: cross_entropy + rate unless the
            objective is given; no bound.
        active_units: latent dimensions whose posterior mean varies over x by more than 0.01.
    """

    split: str
    samples: int
    n: int
    estimator: str
    elbo: Estimate | None
    nll: Estimate | None
    bits_per_dim: Estimate | None
    rate: Estimate
    distortion: Estimate | None
    cross_entropy: Estimate | None
    objective: Estimate | None
    active_units: int

    def as_json(self) -> dict[str, Any]:
        """The content of evaluation.json."""
        return {k: v.as_json() if isinstance(v, Estimate) else v for k, v in vars(self).items()}

    def __str__(self) -> str:
        rows = [(name, str(value)) for name, value in vars(self).items() if isinstance(value, Estimate)]
        rows += [("active_units", f"{self.active_units}"), ("estimator", self.estimator)]
        return "\n".join(f"{name:>14}  {value}" for name, value in rows)


def evaluate(
    model: VAE,
    data: Dataset,
    split: str = "test",
    samples: int = SAMPLES,
    batch_size: int = 100,
    seed: int = 0,
    objective: Objective | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure a model on one split: every example exactly once, K draws for each.

    Args:
        model: the model; its mode and device are left as they are.
        data: the data set.
        split: "test", "valid" or "train".
        samples: K, importance samples for each example.
        batch_size: examples at a time; the result does not depend on it beyond the noise of the draws.
        seed: of the draws.
        objective: what the model was trained by; only asked where its score is no log-density, to report what was minimised.
        on_progress: called with (examples done, examples in all).

    Returns:
        Estimates with standard errors over the examples; units in :class:`Evaluation`.

    Raises:
        ValueError: an unknown split, samples or batch size below 1, or data that do not fit the model.

    Example:
        >>> import lowerbound as lb
        >>> digits = lb.data.load("digits", binarize="threshold")
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal((4,)),
        ...     posterior=lb.posteriors.DiagonalNormal(digits.event_shape, (4,)),
        ...     likelihood=lb.likelihoods.Bernoulli((4,), digits.event_shape),
        ... )
        >>> result = lb.evaluate(model, digits, samples=10)
        >>> result.nll.n, result.nll.unit, result.nll.value > 0
        (180, 'nats', True)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: at least 1 example at a time is needed")
    if samples < 1:
        raise ValueError(f"samples is {samples}: at least 1 draw for each example is needed")
    check_data(model.likelihood, data.event_shape, data.support, data.name or "the data")
    x, y = data.examples(split), data[split].y
    own = next(model.parameters())
    parts = []
    losses = []
    with torch.no_grad(), seeded(seed), evaluating(model):
        for start in range(0, len(x), batch_size):
            batch = x[start : start + batch_size].to(own.device, own.dtype)
            context = Context(y=None if y is None else y[start : start + batch_size]).to(own.device)
            parts.append(evidence(model, batch, context, samples))
            if objective is not None and not model.likelihood.is_density:
                draw = model(batch, context, objective.samples)
                losses.append(objective.terms(draw, Step(1.0, len(x))).loss)
            if on_progress:
                on_progress(min(start + batch_size, len(x)), len(x))
    log_marginal = torch.cat([part.log_marginal for part in parts])
    rate = torch.cat([part.rate for part in parts])
    distortion = torch.cat([part.distortion for part in parts])
    active = active_units(torch.cat([part.means for part in parts]))
    if not model.likelihood.is_density:
        return Evaluation(
            split=split,
            samples=samples,
            n=len(x),
            estimator="binary cross-entropy: a score, no log-likelihood",
            elbo=None,
            nll=None,
            bits_per_dim=None,
            rate=Estimate.over(rate),
            distortion=None,
            cross_entropy=Estimate.over(distortion),
            objective=Estimate.over(torch.cat(losses) if losses else distortion + rate),
            active_units=active,
        )
    dimensions, nats = numel(data.event_shape), None
    if model.likelihood.support.is_discrete:
        nats = -log_marginal
    elif data.log_levels_per_dim is not None:
        nats = -log_marginal + dimensions * data.log_levels_per_dim
    return Evaluation(
        split=split,
        samples=samples,
        n=len(x),
        estimator=f"importance-weighted, K = {samples}: in expectation nll is at least -log p(x)",
        elbo=Estimate.over(-distortion - rate),
        nll=Estimate.over(-log_marginal),
        bits_per_dim=None if nats is None else Estimate.over(nats).bits_per_dim(dimensions),
        rate=Estimate.over(rate),
        distortion=Estimate.over(distortion),
        cross_entropy=None,
        objective=None,
        active_units=active,
    )
