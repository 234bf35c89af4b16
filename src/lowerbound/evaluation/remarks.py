"""What is said of the numbers of an evaluation in words: what nll is, and where a number cannot be
trusted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lowerbound.evaluation.annealed import Annealed
from lowerbound.evaluation.annealing import doubts
from lowerbound.evaluation.collapse import COLLAPSED, REMEDIES, collapsed_levels, is_collapsed
from lowerbound.evaluation.options import Options
from lowerbound.evaluation.result import Evaluation, Point
from lowerbound.evaluation.weights import TRUSTED
from lowerbound.model import Model

OF_THE_OBSERVED = "; of the observed entries of x alone, the missing ones being marginalised"
IN_BFLOAT16 = "; networks in bfloat16"
# share of heavy-tailed examples that is worth a warning; at K = 100 the fit scatters by 0.2
HEAVY = 0.2


def estimator_in_words(
    model: Model, options: Options, states: int, annealing: Annealed | None, is_masked: bool
) -> str:
    """What nll is.

    Args:
        model: the model.
        options: how it was measured.
        states: over how many values of z the sum was taken; 0 where draws were made.
        annealing: the chains, where annealing took the place of weighting.
        is_masked: whether entries of x are missing.
    """
    if not model.likelihood.is_density:
        words = "binary cross-entropy: a score, no log-likelihood"
    elif states:
        words = _of_sum(states)
    else:
        evidence = "-log p(x|y), conditional" if model.is_conditional else "-log p(x)"
        words = f"{_of_draws(options, annealing)} in expectation nll is at least {evidence}"
    if is_masked and model.likelihood.is_density:
        words += OF_THE_OBSERVED
    return words + IN_BFLOAT16 if options.rounds else words


def _of_sum(states: int) -> str:
    if states == 1:  # q is a point (vector quantisation), and p may give other values a share too
        return "log p(x, z) at the one z that q(z|x) gives, whatever K: nll is at least -log p(x)"
    return f"exact: the sum over all {states:,} values of z, whatever K"


def _of_draws(options: Options, annealing: Annealed | None) -> str:
    if annealing is None:
        return f"importance-weighted, K = {options.samples:,}:"
    return (
        f"annealed importance sampling, {len(annealing.log_w):,} chains, temperatures: "
        f"{options.temperatures:,};"
    )


def warnings_of(
    evaluation: Evaluation, curve: Sequence[Point], annealing: Annealed | None
) -> list[str]:
    """What a person who reads the numbers has to know.

    Args:
        evaluation: the numbers.
        curve: nll over K, whether it is shown or not; empty where there is none.
        annealing: the chains, where annealing took the place of weighting.
    """
    warnings = [*_of_tails(evaluation), *_of_curve(curve)]
    if annealing is not None:
        warnings += doubts(annealing.acceptance)
    return [*warnings, *_of_collapse(evaluation)]


def _of_tails(evaluation: Evaluation) -> list[str]:
    heavy = evaluation.heavy_tails
    if heavy is None or not heavy.value > HEAVY:
        return []
    return [
        f"the importance weights of {heavy.value:.0%} of the examples have a Pareto k above "
        f"{TRUSTED}: their log p(x) rests on a few draws, and nll falls more slowly with K "
        "than 1/K; take more samples, or estimator ais"
    ]


def _of_curve(curve: Sequence[Point]) -> list[str]:
    if len(curve) < 2:
        return []
    before, last = curve[-2:]
    fall, rest = last.fall, last.remaining_bias
    if not (fall and rest and rest > last.nll.stderr and fall.value > 2 * fall.stderr):
        return []
    amount = (
        f"about {rest:.2g} nats or more"
        if math.isfinite(rest)
        else "an amount of which no end is in sight"
    )
    return [
        f"nll still fell by {fall.short} nats from K = {before.samples:,} to {last.samples:,}: it "
        f"is too large by {amount}, which is beyond its standard error; take more samples, or "
        "estimator ais"
    ]


def _of_collapse(evaluation: Evaluation) -> list[str]:
    rate, levels = evaluation.rate, evaluation.levels
    if is_collapsed(rate.value):
        return [
            f"posterior collapse: {evaluation.active_units} of {evaluation.latent_dimensions} "
            f"latent dimensions are active and the rate is {rate.short} nats, so z tells little of "
            f"x; {REMEDIES}"
        ]
    empty = collapsed_levels({f"rate/{level.name}": level.rate.value for level in levels})
    if not empty:
        return []
    return [
        f"posterior collapse of {len(empty)} of {len(levels)} latents: the rate of "
        f"{', '.join(empty)} is below {COLLAPSED} nats, so it tells nothing that the others do "
        f"not; {REMEDIES}"
    ]
