"""What an evaluation says: estimates, the curve over K, and warnings in words.

A standard error says how far the mean over these examples may lie from that over all examples like
them. The bias of a K-sample bound is another matter, which no number of examples reduces: the curve
over K shows it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from lowerbound.evaluation.base_measure import BaseMeasure
from lowerbound.evaluation.estimate import Estimate

Kind = Literal["probability", "density", "score"]


@dataclass(frozen=True)
class Point:
    """One point of the curve over K.

    Args:
        samples: K.
        nll: -L_K, averaged over disjoint groups of K draws, nats.
        fall: how much smaller nll is than at the point before, example by example; None at the
            first.
        remaining_bias: what nll has still to fall if it goes on as a power of K, as over the last
            two steps, and at most at the rate 1/K: an extrapolation of the bias, nats; None at the
            first.
    """

    samples: int
    nll: Estimate
    fall: Estimate | None = None
    remaining_bias: float | None = None

    def __str__(self) -> str:
        if self.fall is None:
            return str(self.nll)
        rest = (
            "no end in sight"
            if self.remaining_bias == math.inf
            else f"about {self.remaining_bias:.2g} to fall"
        )
        return f"{self.nll}; it fell by {self.fall.short}, {rest}"


@dataclass(frozen=True)
class Level:
    """One of several latents.

    Args:
        name: the number of its level, from 1 next to x, or what it is called where they are no
            levels.
        rate: what it adds to the rate, E_q[log q - log p], nats.
        active_units: dimensions whose posterior mean varies over x by more than 0.01.
        latent_dimensions: how many there are.
    """

    name: str
    rate: Estimate
    active_units: int
    latent_dimensions: int

    def __str__(self) -> str:
        return f"{self.rate}; {self.active_units} of {self.latent_dimensions} units active"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a model is worth on one split. A quantity that does not exist for the model is None.

    Args:
        split: the split.
        samples: K, draws for each example.
        n: number of examples.
        sha256: of the examples as the model saw them; two evaluations with the same one are paired
            example by example.
        conditional: whether the model is conditioned on y: each p(x) below is then p(x|y), and p(z)
            may be p(z|y).
        kind: what the likelihood is: a "probability" (nll of discrete data), a "density", or a
            "score" and no likelihood.
        base_measure: what log p(x) is a density with respect to: "counting" of probabilities,
            "Lebesgue" of densities, "none" of a score; one word for all entries of x, or one for
            each. Only numbers of the same base measure compare.
        estimator: what nll is, in words.
        accuracy: share of the labels that the model guesses, where it guesses labels and they are
            known.
        elbo: the evidence lower bound, nats; larger is better.
        nll: -log p(x), nats; smaller is better.
        bits_per_dim: nll of discrete data in bits per dimension; of a density on dequantised data,
            of the levels.
        rate: KL(q(z|x) ‖ p(z)), nats.
        rate_per_dimension: the rate of each latent dimension, where q and p have independent
            entries.
        distortion: -E_q[log p(x|z)], nats.
        cross_entropy: binary cross-entropy, where the model was trained by it; no likelihood.
        objective: what was minimised, where the model was trained by cross-entropy: cross_entropy +
            rate unless the objective is given; no bound. None where it was a statistic of batches.
        mutual_information: I_q(x; z), nats: a lower bound in expectation, and at most log n (its n
            may be smaller).
        mutual_information_upper: an upper bound in expectation on the same.
        marginal_kl: KL(q(z) ‖ p(z)), nats: an upper bound in expectation.
        marginal_kl_lower: a lower bound in expectation on the same; None where no more is known
            than that it is at least 0.
        effective_samples: how many equally weighted draws the K weights of an example are worth.
        heavy_tails: share of the examples whose weights have a Pareto k above 0.7; None for fewer
            than 100 draws, of which the fit scatters so much that its 0.7 says little.
        active_units: latent dimensions whose posterior mean varies over x by more than 0.01.
        latent_dimensions: how many there are.
        levels: each latent by itself, in the order of the draw (z_1, next to x, first), where there
            are several.
        curve: nll at K = 1, 10, 100, ..., where it was asked for.
        observed: where entries are missing, how many are observed: nll, elbo, distortion and bits
            per dimension are then those of the observed entries, p(x_observed).
        far: numbers of the examples that are far from all training data, for which q(z|x) was
            refined by itself (:mod:`~lowerbound.evaluation.far`); active_units, mutual_information
            and marginal_kl are of the others.
        warnings: in words: where a number cannot be trusted, or the model is not what it should be.
        values: by name, the value of each example, (n,): what paired comparisons are made of. Not
            written to files.
    """

    split: str
    samples: int
    n: int
    sha256: str
    kind: Kind
    estimator: str
    base_measure: tuple[BaseMeasure, ...] = ()
    conditional: bool = False
    accuracy: Estimate | None = None
    elbo: Estimate | None = None
    nll: Estimate | None = None
    bits_per_dim: Estimate | None = None
    rate: Estimate
    rate_per_dimension: tuple[Estimate, ...] | None = None
    distortion: Estimate | None = None
    cross_entropy: Estimate | None = None
    objective: Estimate | None = None
    mutual_information: Estimate | None = None
    mutual_information_upper: Estimate | None = None
    marginal_kl: Estimate | None = None
    marginal_kl_lower: Estimate | None = None
    effective_samples: Estimate | None = None
    heavy_tails: Estimate | None = None
    active_units: int
    latent_dimensions: int
    levels: tuple[Level, ...] = ()
    curve: tuple[Point, ...] = ()
    warnings: tuple[str, ...] = ()
    observed: Estimate | None = None
    far: tuple[int, ...] = ()
    values: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def as_json(self) -> dict[str, Any]:
        """The content of evaluation.json."""
        return {key: _plain(value) for key, value in vars(self).items() if key != "values"}

    def __str__(self) -> str:
        ranges = {
            "mutual_information": (self.mutual_information, self.mutual_information_upper),
            "marginal_kl": (self.marginal_kl_lower, self.marginal_kl),
        }
        rows = []
        for name, value in vars(self).items():
            if isinstance(value, Estimate) and name in ranges:
                low, high = ranges[name]
                rows.append((name, f"{low.short if low else 0} to {high}"))
            elif isinstance(value, Estimate) and name not in (
                "mutual_information_upper",
                "marginal_kl_lower",
            ):
                rows.append((name, str(value)))
        rows += [(f"rate/{level.name}", str(level)) for level in self.levels]
        rows += [
            ("active_units", f"{self.active_units} of {self.latent_dimensions}"),
            ("estimator", self.estimator),
        ]
        rows += [(f"nll, K = {point.samples:,}", str(point)) for point in self.curve]
        rows += [("warning", warning) for warning in self.warnings]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:>{width}}  {words}" for name, words in rows)


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return value.as_json()
    if isinstance(value, (Point, Level)):
        return {key: _plain(each) for key, each in vars(value).items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None  # JSON has no infinity
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
