"""What an evaluation knows of single examples, batch by batch, before means are taken over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from lowerbound.evaluation.curve import curve_sizes
from lowerbound.evaluation.evidence import Evidence
from lowerbound.evaluation.log_marginal import evidence_of_each
from lowerbound.evaluation.weights import TRUSTED, bound, effective_samples, pareto_k
from lowerbound.model import Model
from lowerbound.objective import Objective, Step
from lowerbound.roles import Context

# draws below which the fit of the tail scatters so much that its 0.7 says little
MIN_DRAWS_TO_WARN = 100


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """What is known of each of B examples; (B,) and in nats where nothing else is said.

    Args:
        entries: how many entries of x are observed.
        elbo: the evidence lower bound.
        rate: KL(q(z|x) ‖ p(z)).
        distortion: -E_q[log p(x|z)], or the score that stands in its place.
        nll: -L_K, from importance-weighted draws or the sum over all z.
        rates: what each latent adds to the rate, by its name, in the order of the draw.
        rate_per_dimension: the rate of each latent dimension, (B, dimensions); None where they are
            not independent.
        means: the posterior means of each latent, each (B, dimensions, C).
        noise: how much each of them varies by chance, of the same shapes.
        curve: -L_k for each k of the curve; empty where the sum over all z is taken.
        effective_samples: how many equally weighted draws the K weights are worth; None where the
            sum over all z is taken.
        heavy_tails: 1 where the weights have a Pareto k above 0.7, and 0 elsewhere; None where
            there are too few draws to say.
        is_guessed: 1 where the model guesses the label, and 0 elsewhere; None where it guesses none
            or the labels are not known.
        objective: what training minimised; None of a density, and where that is a statistic of a
            batch.
        unfit: how many log-weights are not finite.
        states: over how many values of z the sum was taken; 0 where draws were made.
        is_refined: whether it is far from all training data, so that q was refined for it, bool.
        is_lost: whether it is far and has no finite weights, bool.
    """

    entries: Tensor
    elbo: Tensor
    rate: Tensor
    distortion: Tensor
    nll: Tensor
    rates: Mapping[str, Tensor]
    rate_per_dimension: Tensor | None
    means: tuple[Tensor, ...]
    noise: tuple[Tensor, ...]
    curve: Mapping[int, Tensor]
    effective_samples: Tensor | None
    heavy_tails: Tensor | None
    is_guessed: Tensor | None
    objective: Tensor | None
    unfit: Tensor
    states: int
    is_refined: Tensor
    is_lost: Tensor

    @property
    def is_usual(self) -> Tensor:
        """Whether it has the encoder's q, bool; all of them where no example has."""
        usual = ~(self.is_refined | self.is_lost)
        return usual if bool(usual.any()) else ~usual

    def to_cpu(self) -> Measurements:
        """The same where every process can read it."""
        return Measurements(
            **{name: _changed(value, Tensor.cpu) for name, value in vars(self).items()}
        )

    @classmethod
    def joined(cls, parts: Sequence[Measurements]) -> Measurements:
        """Those of all examples, from those of batches in their order."""
        return cls(
            **{
                field.name: _joined([getattr(part, field.name) for part in parts])
                for field in fields(cls)
            }
        )


def measure(
    model: Model, x: Tensor, context: Context, samples: int, objective: Objective | None, n: int
) -> Measurements:
    """What is known of the examples of a batch.

    Args:
        model: the model.
        x: the batch, (B, *X).
        context: of these examples.
        samples: K, draws for each.
        objective: what the model was trained by; only asked where its score is no log-density. None
            takes distortion and rate, unweighted.
        n: examples in all, which an objective may ask for.
    """
    weighted = evidence_of_each(model, x, context, samples)
    nobody = torch.zeros_like(weighted.rate, dtype=torch.bool)
    label, y = model.classify(x, context), context.y
    return Measurements(
        entries=_entries(x, context.mask),
        elbo=weighted.elbo,
        rate=weighted.rate,
        distortion=weighted.distortion,
        nll=-weighted.log_marginal,
        rates=weighted.rates,
        rate_per_dimension=weighted.rate_per_dimension,
        means=weighted.means,
        noise=weighted.noise,
        **_of_weights(weighted),
        is_guessed=None if label is None or y is None else (label == y).float(),
        objective=None
        if weighted.is_density
        else _objective(model, x, context, weighted, objective, n),
        unfit=weighted.unfit,
        states=len(weighted.log_terms) if weighted.is_exact else 0,
        is_refined=nobody if weighted.is_refined is None else weighted.is_refined,
        is_lost=nobody if weighted.is_lost is None else weighted.is_lost,
    )


def _of_weights(weighted: Evidence) -> dict[str, Any]:
    """What the importance weights say of the estimate that is made of them."""
    if weighted.is_exact:
        return {"curve": {}, "effective_samples": None, "heavy_tails": None}
    draws = len(weighted.log_terms)
    log_w = weighted.log_terms.cpu().double() + torch.tensor(float(draws)).log()
    has_tail = draws >= MIN_DRAWS_TO_WARN
    return {
        "curve": {size: -bound(log_w, size) for size in curve_sizes(draws)},
        # of weights that are all zero not one is effective
        "effective_samples": effective_samples(log_w).nan_to_num(nan=0.0),
        "heavy_tails": (pareto_k(log_w) > TRUSTED).float() if has_tail else None,
    }


def _objective(
    model: Model,
    x: Tensor,
    context: Context,
    weighted: Evidence,
    objective: Objective | None,
    n: int,
) -> Tensor | None:
    """What was minimised, of a model that is trained by a score."""
    if objective is None:
        return weighted.distortion + weighted.rate
    # a statistic of the batch has another value in another batch, and a critic is not saved with
    # the model
    if objective.batch_statistics:
        return None
    terms = objective(model(x, context, objective.samples), Step(1.0, n))
    return terms.loss + (0.0 if terms.batch_loss is None else terms.batch_loss)


def _entries(x: Tensor, mask: Tensor | None) -> Tensor:
    """How many entries of each example are observed, (B,)."""
    if mask is None:
        return torch.full((len(x),), float(x[0].numel()), device=x.device)
    return mask.float().expand_as(x).reshape(len(x), -1).sum(1)


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A field with each of its tensors changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _changed(each, change) for key, each in value.items()}
    return tuple(_changed(each, change) for each in value) if isinstance(value, tuple) else value


def _joined(values: Sequence[Any]) -> Any:
    """A field of all batches, from that of each."""
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(list(values))
    if isinstance(first, Mapping):
        return {key: _joined([value[key] for value in values]) for key in first}
    if isinstance(first, tuple):
        return tuple(map(_joined, zip(*values, strict=True)))
    return first
