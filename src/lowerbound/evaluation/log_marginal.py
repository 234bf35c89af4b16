"""log p(x) of single examples, whatever stands beside them.

An example far from all training data is weighed by draws from a q that was refined for it
(:mod:`~lowerbound.evaluation.far`), where the encoder's is of no use; the others are what they are
without it, to the last digit.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.checks import check_density, check_finite, check_squares
from lowerbound.draw import Draw
from lowerbound.evaluation.evidence import BATCH_EXAMPLES, Evidence, evidence
from lowerbound.evaluation.far import Refinement, is_far, is_refinable, usual, words
from lowerbound.model import Model
from lowerbound.models.vae import VAE
from lowerbound.roles import Context
from lowerbound.units import is_double
from lowerbound.utils.allocator import retain_freed_memory
from lowerbound.utils.modes import evaluating
from lowerbound.utils.seeding import random_state, replayed, seeded

# What a q that was refined must gain in log p(x) to take the place of the encoder's: a share of it,
# and nats. An example of heavy-tailed training data may be far and well known to the encoder, and
# then nothing changes; by chance, an estimate is hardly ever too large by so much.
GAIN_SHARE, GAIN = 0.01, 0.5


def evidence_of_each(
    model: Callable[..., Draw],
    x: Tensor,
    context: Context | None = None,
    samples: int = 100,
    chunk: int | None = None,
) -> Evidence:
    """Evidence as of :func:`evidence`, where an example far from all training data costs the others
    nothing: q is refined for it, if that raises its log p(x) clearly.

    Where q cannot be refined (a hierarchy, say), such an example has what its q gives it, or, where
    that is not finite, an elbo and an estimate of log p(x) of -inf, which bound it too.

    Args:
        model: as for :func:`evidence`, as all that follows.
        x: the data, (B, *X).
        context: labels, mask and the like.
        samples: K.
        chunk: draws at a time.

    Raises:
        ValueError: K or the chunk below 1.
    """
    context = context or Context()
    far = is_far(model, x, context).to(x.device)
    # in the model's own precision, where that is no less than its data need; what is far is refined
    # as it was given
    rounded = x
    if isinstance(model, Model) and not (x.dtype == torch.float64 and is_double(model)):
        rounded = x.to(next(model.parameters()).dtype)
    if not bool(far.any()):
        return evidence(model, rounded, context, samples, chunk)
    before = random_state()
    # what the model's precision cannot hold is no example for its own q
    is_beyond = far & _overflows(x, rounded, context)
    if isinstance(model, Model):
        rounded = usual(model, rounded, is_beyond)
    # the others' draws are what they are without examples that are far
    whole = evidence(model, rounded, context, samples, chunk)
    where, is_useless = far.nonzero().flatten(), is_beyond | (whole.unfit > 0)
    if isinstance(model, VAE) and is_refinable(model):
        with replayed(before):
            refined = _refined(Refinement(model, x[far], context[far]), samples, chunk)
        gained = refined.log_marginal - whole.log_marginal.to(refined.log_marginal)[far]
        is_clear = gained > GAIN + GAIN_SHARE * refined.log_marginal.abs()
        is_better = (is_clear | is_useless[far]) & (refined.unfit == 0)
        whole = _replaced(whole, refined, where, is_better)
        is_useless[where[is_better]] = False
    is_lost = far & is_useless
    return _without_estimate(whole, is_lost) if bool(is_lost.any()) else whole


def _overflows(x: Tensor, rounded: Tensor, context: Context) -> Tensor:
    """Which examples hold an observed value that is finite, and is no longer so when rounded,
    (B,).
    """
    context = context.to(x.device)
    wide, narrow = (context.observed(value).reshape(len(x), -1) for value in (x, rounded))
    return (wide.isfinite() & ~narrow.isfinite()).any(1)


def _refined(refinement: Refinement, samples: int, chunk: int | None) -> Evidence:
    """Of each example by draws from the q that was refined for it."""
    parts = []
    for i in range(len(refinement)):
        with refinement.of(i) as (model, x, context):
            by_draws = evidence(model, x, context, samples, chunk)
        # an elbo has its q in the model's own family; log p(x) may be weighed by draws of any
        with refinement.of(i, is_in_family=True) as (model, x, context):
            in_family = evidence(model, x, context, samples, chunk)
        parts.append(replace(in_family, log_terms=by_draws.log_terms))
    return replace(
        parts[0],
        **{
            field: _changed([getattr(part, field) for part in parts], _joined)
            for field in OF_EXAMPLES
        },
        log_terms=torch.cat([part.log_terms for part in parts], 1),
    )


# the fields of evidence that have a row for each example; log_terms has a column
OF_EXAMPLES = ("rate", "rates", "rate_per_dimension", "distortion", "means", "noise")


def _replaced(whole: Evidence, others: Evidence, where: Tensor, which: Tensor) -> Evidence:
    """Evidence with that of others in the place of some examples.

    Args:
        whole: of (B,) examples.
        others: of n of them.
        where: their numbers, (n,).
        which: of the n are to be replaced, (n,) bool.
    """
    if not bool(which.any()):
        return whole
    rows = where[which]

    def put(values: Sequence[Tensor], dim: int = 0) -> Tensor:
        first, second = values
        chosen = second.to(first.device).index_select(dim, which.nonzero().flatten())
        return first.double().index_copy(dim, rows, chosen)

    fields = {
        field: _changed([getattr(whole, field), getattr(others, field)], put)
        for field in OF_EXAMPLES
    }
    log_terms = put([whole.log_terms, others.log_terms], 1)
    is_refined = torch.zeros_like(whole.rate, dtype=torch.bool).index_fill(0, rows, True)
    return replace(whole, **fields, log_terms=log_terms, is_refined=is_refined)


def _without_estimate(whole: Evidence, is_lost: Tensor) -> Evidence:
    """Evidence in which some examples have no more than a bound of -inf."""

    def gone(value: float) -> Callable[[Sequence[Tensor]], Tensor]:
        return lambda values: torch.where(
            is_lost.reshape(-1, *[1] * (values[0].ndim - 1)), value, values[0]
        )

    fields = {
        field: _changed(
            [getattr(whole, field)], gone(0.0 if field in ("means", "noise") else math.inf)
        )
        for field in OF_EXAMPLES
    }
    log_terms = torch.where(is_lost, -math.inf, whole.log_terms)
    return replace(whole, **fields, log_terms=log_terms, is_lost=is_lost)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts))


def _changed(values: Sequence[Any], change: Callable[[Sequence[Tensor]], Tensor]) -> Any:
    """A field of several pieces of evidence made one, tensor by tensor."""
    first = values[0]
    if isinstance(first, Tensor):
        return change(values)
    if isinstance(first, Mapping):
        return {name: _changed([value[name] for value in values], change) for name in first}
    if isinstance(first, tuple):
        return tuple(_changed(each, change) for each in zip(*values, strict=True))
    return first


def log_marginal(
    model: Callable[..., Draw],
    x: Tensor,
    context: Context | None = None,
    samples: int = 100,
    seed: int | None = 0,
    chunk: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The K-sample estimate of log p(x) for each example, (n,), in nats, without gradients.

    For an example far from all training data q is refined by itself, and a warning says which they
    are (:mod:`~lowerbound.evaluation.far`); the estimates are then in float64, and the others the
    same numbers as without it.

    Args:
        model: gives a draw; put into evaluation mode meanwhile.
        x: any number of examples, (n, *X); 100 are worked on at a time.
        context: labels, mask and the like.
        samples: K.
        seed: of the draws; None draws from torch's global generators, or from those of the
            seeded call that this one is part of.
        chunk: draws at a time, as in :func:`evidence`.
        on_progress: called with (examples done, examples in all).

    Raises:
        ValueError: K or the chunk below 1, values whose square is more than float64 holds, weights
            that are not finite of examples that are not far (how many, and of which examples), or a
            model whose score is no log-density.

    Example:
        >>> import lowerbound as lb
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal((2,)),
        ...     posterior=lb.posteriors.DiagonalNormal((4,), (2,)),
        ...     likelihood=lb.likelihoods.Bernoulli((2,), (4,)),
        ... )
        >>> log_marginal(model, torch.ones(5, 4), samples=250, seed=0).shape
        torch.Size([5])
    """
    context, x = context or Context(), torch.as_tensor(x)
    if not len(x):
        raise ValueError("there is no example: x is empty")
    batches = ((x[rows], context[rows]) for rows in _batches(len(x)))
    counted = None if on_progress is None else lambda done: on_progress(done, len(x))
    with seeded(seed):
        estimates, refined, lost = log_marginals(model, batches, samples, chunk, counted)
    for remark in words(refined, lost, len(x)):
        warnings.warn(remark, stacklevel=2)
    return estimates


def _numbers(which: Tensor, first: int) -> list[int]:
    """The numbers of some examples, of which the first has a number of its own."""
    numbers: list[int] = (first + which.nonzero().flatten()).tolist()
    return numbers


def _batches(n: int) -> list[slice]:
    return [slice(start, start + BATCH_EXAMPLES) for start in range(0, n, BATCH_EXAMPLES)]


def log_marginals(
    model: Callable[..., Draw],
    pieces: Iterable[tuple[Tensor, Context]],
    samples: int = 100,
    chunk: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[Tensor, list[int], list[int]]:
    """The same of examples that come in pieces, from a file, say; from the global random state.

    Args:
        model: gives a draw; put into evaluation mode meanwhile.
        pieces: examples (b, *X) and their context; 100 are worked on at a time, so that pieces of a
            multiple of 100 give the numbers of all at once.
        samples: K.
        chunk: draws at a time, as in :func:`evidence`.
        on_progress: called with the examples done.

    Returns:
        Log p(x), (n,), on the CPU where there are several pieces; the numbers of the examples for
        which q was refined; and of those that are far and have no estimate above -inf.

    Raises:
        ValueError: as of :func:`log_marginal`.
    """
    estimates: list[Tensor] = []
    unfit: list[Tensor] = []
    refined: list[int] = []
    lost: list[int] = []
    done = 0
    as_evaluated = evaluating(model) if isinstance(model, nn.Module) else nullcontext()
    with torch.no_grad(), retain_freed_memory(), as_evaluated:
        for x, context in pieces:
            check_squares(context.to(x.device).observed(x), done)
            for rows in _batches(len(x)):
                part = evidence_of_each(model, x[rows], context[rows], samples, chunk)
                check_density(part.is_density)
                estimates.append(part.log_marginal)
                unfit.append(part.unfit)
                refined += [] if part.is_refined is None else _numbers(part.is_refined, done)
                lost += [] if part.is_lost is None else _numbers(part.is_lost, done)
                done += len(x[rows])
                if on_progress:
                    on_progress(done)
    check_finite(torch.cat(unfit), samples)
    return torch.cat(estimates), refined, lost
