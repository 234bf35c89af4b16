"""What is said of the numbers of an evaluation in words: what nll is, and where a number cannot be
trusted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lowerbound.evaluation.annealed import Annealed
from lowerbound.evaluation.annealing import doubts
from lowerbound.evaluation.collapse import COLLAPSED, REMEDIES, collapsed_levels, is_collapsed
from lowerbound.evaluation.estimate import Estimate
from lowerbound.evaluation.options import Options
from lowerbound.evaluation.result import Evaluation, Point
from lowerbound.evaluation.weights import TRUSTED
from lowerbound.model import Model

OF_THE_OBSERVED = "; of the observed entries of x alone, the missing ones being marginalised"
IN_BFLOAT16 = "; networks in bfloat16"
# share of heavy-tailed examples that counts; at K = 100 the fit of the tail scatters by 0.2
HEAVY = 0.2
# standard errors by which nll may still fall from one K to the next where they have them: what is
# left is then more than an extrapolation says, up to thirteen times (benchmarks/warned.py)
FALL = 0.4
# share of log n by which mutual information may miss it and yet be at its ceiling
AT_CEILING = 0.01


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
    warnings = _of_curve(curve, evaluation.heavy_tails)
    if annealing is not None:
        warnings += doubts(annealing.acceptance)
    return [*warnings, *_of_ceiling(evaluation), *_of_collapse(evaluation)]


def _of_curve(curve: Sequence[Point], heavy: Estimate | None) -> list[str]:
    """That nll is too large, where what it has still to fall is beyond its standard error.

    Weights with a heavy tail are no fault by themselves: every q that is not the true posterior may
    have them, and where nll no longer falls they do no harm. But where many examples have them,
    what is still to fall is more than an extrapolation says.
    """
    if len(curve) < 2:
        return []
    before, last = curve[-2:]
    fall, rest = last.fall, last.remaining_bias
    error = last.nll.stderr
    if not (fall and rest and fall.value > 2 * fall.stderr):
        return []
    is_heavy = heavy is not None and heavy.value > HEAVY
    if not (rest > error or (is_heavy and fall.value > FALL * error)):
        return []
    amount = (
        f"about {rest:.2g} nats or more"
        if math.isfinite(rest)
        else "an amount of which no end is in sight"
    )
    size = "is" if rest > error else "may be"
    advice = f"take more samples ({10 * last.samples:,}), or estimator ais"
    if is_heavy and heavy is not None:
        advice = (
            f"the importance weights of {heavy.value:.0%} of the examples have a Pareto k above "
            f"{TRUSTED}, so that it falls more slowly with K than 1/K; take many more samples, or "
            "estimator ais"
        )
    return [
        f"nll still fell by {fall.short} nats from K = {before.samples:,} to {last.samples:,}: it "
        f"is too large by {amount}, which {size} beyond its standard error; {advice}"
    ]


def _of_ceiling(evaluation: Evaluation) -> list[str]:
    """That mutual information is as large as n examples can show it."""
    found = evaluation.mutual_information
    if found is None or found.n < 2 or found.value < (1 - AT_CEILING) * math.log(found.n):
        return []
    return [
        f"mutual_information has a lower bound that is at its ceiling: {found.n:,} examples can "
        f"show no more than log {found.n:,} = {math.log(found.n):.4g} nats"
    ]


def _of_collapse(evaluation: Evaluation) -> list[str]:
    rate, levels = evaluation.rate, evaluation.levels
    if is_collapsed(rate.value):
        return [
            f"posterior collapse: the rate is {rate.short} nats, so z tells little or nothing of "
            f"x, in however many dimensions its mean varies; {REMEDIES}"
        ]
    empty = collapsed_levels({f"rate/{level.name}": level.rate.value for level in levels})
    if not empty:
        return []
    return [
        f"posterior collapse of {len(empty)} of {len(levels)} latents: the rate of "
        f"{', '.join(empty)} is below {COLLAPSED} nats, so it tells nothing that the others do "
        f"not; {REMEDIES}"
    ]
