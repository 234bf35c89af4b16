"""The importance-weighted estimate of log p(x) (Burda, Grosse and Salakhutdinov 2015, arXiv
1509.00519).

    L_K(x) = log (1/K) sum_k w_k,   w_k = p(x, z_k) / q(z_k|x),   z_k ~ q(z|x)

E[L_K] is at most log p(x), grows with K and approaches it at rate 1/K where the weights have enough
finite moments: a lower bound in expectation, biased downwards, whatever its standard error. L_1 is
the ELBO with a sampled KL.

The K draws are made in chunks that fit in memory, of which only the weights are kept: exactly K
draws, and the same estimator whatever the chunk. A chunk is one pass over few examples with many
draws of each: what depends on x alone is then worked out once for thousands of draws, and on a CPU
what is written of p(x|z) is still in the cache when it is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lowerbound.distributions import categories, mean
from lowerbound.draw import Draw
from lowerbound.roles import Context
from lowerbound.utils.memory import check_fits, values_held

MAX_LIKELIHOOD_VALUES = 2**24  # numbers that one chunk's p(x|z) may hold: 64 MiB in float32
# the same on a CPU: 16 MiB, where passes over them are several times faster than over memory
CACHED = 2**22
ROWS = (
    2**15
    # draws times examples in a chunk, which bounds the activations of hidden layers: 64 MiB for 512
    # units
)
# examples at a time: enough for large matrix products, and K = 5,000 weights of each are 2 MB
BATCH_EXAMPLES = 100


@dataclass(frozen=True)
class Evidence:
    """What K draws say about each of B examples, in nats.

    Args:
        log_terms: what each draw contributes to the estimate of p(x), log w_k + log m_k, (K, B):
            the terms sum to it.
        rate: KL(q(z|x) ‖ p(z)), in closed form where there is one, else averaged over the K draws,
            (B,).
        rates: what each latent adds to it, each (B,), by its name in the log and in the order of
            the draw.
        rate_per_dimension: the rate of each latent dimension, (B, dimensions); None where they are
            not independent.
        distortion: -E_q[log p(x|z)], averaged over the K draws, (B,).
        means: posterior means of each latent, averaged over what it depends on, each (B, number of
            its variables, C): C = 1, and the number of categories of categorical codes.
        noise: variance of those averages over the draws, of the same shapes; zero where it depends
            on no other latent.
        is_density: False where the model's score is no log-density, and log_marginal therefore no
            evidence.
        is_exact: True where the terms are all values of z that q allows, and no draws; their sum is
            then log p(x) itself, or a lower bound without noise where p allows others too (vector
            quantisation).
        is_refined: for which examples the draws are from a q that was refined for them, (B,);
            everything is then in float64, which holds their squares. None where there is none.
        is_lost: which are far from all training data and have no finite weights, and so no estimate
            above -inf, (B,). None where there is none.
        dtype: of the numbers of all others.
    """

    log_terms: Tensor
    rate: Tensor
    rates: Mapping[str, Tensor]
    rate_per_dimension: Tensor | None
    distortion: Tensor
    means: tuple[Tensor, ...]
    noise: tuple[Tensor, ...]
    is_density: bool
    is_exact: bool
    is_refined: Tensor | None = None
    is_lost: Tensor | None = None
    dtype: torch.dtype = torch.float32

    @property
    def log_marginal(self) -> Tensor:
        """The K-sample estimate of log p(x), (B,)."""
        estimate = torch.logsumexp(self.log_terms.to(self.dtype), 0)
        return self._refined_or(torch.logsumexp(self.log_terms, 0), estimate)

    @property
    def elbo(self) -> Tensor:
        """The evidence lower bound, (B,)."""
        elbo = -self.distortion.to(self.dtype) - self.rate.to(self.dtype)
        return self._refined_or(-self.distortion - self.rate, elbo)

    def _refined_or(self, refined: Tensor, others: Tensor) -> Tensor:
        """What is known of each example, in the precision that it has by itself: the others are
        what they are without refined ones beside them, to the last digit.
        """
        if self.is_refined is None:
            return others
        return torch.where(self.is_refined, refined, others.double())

    @property
    def unfit(self) -> Tensor:
        """How many log-weights are not finite, (B,), of examples that are not known to be lost."""
        unfit = (~torch.isfinite(self.log_terms)).sum(0)
        return unfit if self.is_lost is None else unfit * ~self.is_lost


def evidence(
    model: Callable[..., Draw],
    x: Tensor,
    context: Context | None = None,
    samples: int = 100,
    chunk: int | None = None,
) -> Evidence:
    """Importance-weighted evidence of a batch x (B, *X) from exactly ``samples`` draws for each
    example.

    Where the model enumerates its latent, each value of z counts once, and ``samples`` and
    ``chunk`` are not asked.

    Args:
        model: gives a draw.
        x: the data, (B, *X).
        context: labels, mask and the like.
        samples: K.
        chunk: draws at a time, of all examples; by default so many, of so few examples, that p(x|z)
            stays below 16 MiB on a CPU and below 64 MiB elsewhere, and a hidden layer of 512 units
            below 64 MiB. Under one seed other chunks are other draws.

    Raises:
        ValueError: K or the chunk below 1.
    """
    for name, value in (("samples", samples), ("chunk", chunk)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}: at least 1 draw is needed")
    check_fits(
        8 * samples * len(x),
        f"{samples:,} importance weights for each of {len(x):,} examples",
        "take fewer samples",
    )
    context = context or Context()
    draw = model(x, context, min(chunk or 1, samples))  # shows what a draw costs
    done = samples if draw.is_enumerated else min(chunk or 1, samples)
    whole = _part(draw, done, samples)
    if done < samples:
        size, examples = (chunk, len(x)) if chunk else _cut(draw, samples - done)
        sizes = [min(size, samples - start) for start in range(done, samples, size)]
        groups = [slice(start, start + examples) for start in range(0, len(x), examples)]
        parts = [
            [_part(model(x[rows], context[rows], draws), draws, samples) for draws in sizes]
            for rows in groups
        ]
        whole = _summed([whole, _beside([_summed(chunks) for chunks in parts])])
    sums = list(whole.sums)
    rates = {name: sums.pop(0) for name in draw.names}
    distortion = sums.pop(0)
    # what does not depend on the draws is the same in every chunk
    moments = sums[: 2 * len(draw.latents)] if _is_chain(draw) else _moments(draw, 1)
    per_dimension = (
        next(iter(sums[len(moments) :]), None) if _is_chain(draw) else draw.rate_per_dimension
    )
    averages, squares = moments[::2], moments[1::2]
    return Evidence(
        log_terms=whole.log_terms,
        rate=torch.stack(list(rates.values())).sum(0),
        rates=rates,
        rate_per_dimension=per_dimension,
        distortion=distortion,
        means=tuple(averages),
        noise=tuple(
            (s - m**2).clamp(min=0) / max(1, samples - 1)
            for m, s in zip(averages, squares, strict=True)
        ),
        is_density=draw.is_density,
        is_exact=draw.is_enumerated,
        dtype=whole.log_terms.dtype,
    )


def _cut(draw: Draw, samples: int) -> tuple[int, int]:
    """Draws and examples of a chunk: as many draws as there are to make, and as few examples as
    fill it.

    Args:
        draw: one of each example, to see what it costs.
        samples: how many are to be made.
    """
    rows, examples = draw.log_w.shape  # a row for each label, where a label is summed out
    values = CACHED if draw.log_w.device.type == "cpu" else MAX_LIKELIHOOD_VALUES
    fit = max(1, min(ROWS // rows, values * examples // max(1, values_held(draw.px))))
    chunks = math.ceil(samples / fit)
    return math.ceil(samples / chunks), max(1, fit // samples)


@dataclass(frozen=True)
class _Part:
    """What some of K draws of some of the examples say.

    Args:
        log_terms: (k, B).
        sums: what is averaged over the draws, each (B, ...), times the share of these draws in K.
    """

    log_terms: Tensor
    sums: tuple[Tensor, ...]


def _part(draw: Draw, draws: int, of: int) -> _Part:
    # the draws' own weights average over themselves; their share makes that a part of the whole
    share = draws / of
    terms = draw.log_w + draw.log_m + math.log(share)
    # where a label is summed out, a draw has a row for each label, and is one draw by their sum
    if not draw.is_enumerated and len(terms) != draws:
        terms = torch.logsumexp(terms.reshape(draws, -1, terms.shape[1]), 1)
    sums = [*draw.rates_by("auto"), draw.distortion]
    if _is_chain(draw):
        sums += _moments(draw, 1 if draw.is_enumerated else draws)
        sums += [] if draw.rate_per_dimension is None else [draw.rate_per_dimension]
    return _Part(terms, tuple(average * share for average in sums))


def _summed(parts: list[_Part]) -> _Part:
    """Other draws of the same examples."""
    sums = zip(*(part.sums for part in parts), strict=True)
    return _Part(
        torch.cat([part.log_terms for part in parts]),
        tuple(torch.stack(of_parts).sum(0) for of_parts in sums),
    )


def _beside(parts: list[_Part]) -> _Part:
    """Other examples."""
    sums = zip(*(part.sums for part in parts), strict=True)
    return _Part(
        torch.cat([part.log_terms for part in parts], 1),
        tuple(torch.cat(of_parts) for of_parts in sums),
    )


def _is_chain(draw: Draw) -> bool:
    """Whether the posterior of a latent depends on draws of another."""
    return any(len(latent.q.batch_shape) > 1 for latent in draw.latents)


def _moments(draw: Draw, draws: int) -> list[Tensor]:
    """The mean over the draws of each latent's posterior mean, and of its square, each (B,
    variables, C).

    Args:
        draw: of one or more rows a draw, by which a label is summed out.
        draws: how many.
    """
    moments = []
    for latent in draw.latents:
        means = mean(latent.q)
        means = means.reshape(*latent.q.batch_shape, -1, categories(latent.q))
        if means.ndim == 4:
            weighted = draw.log_m.exp().broadcast_to(means.shape[:2])[..., None, None] * means
            means = draws * weighted.reshape(draws, -1, *means.shape[1:]).sum(1)
            moments += [means.mean(0), means.square().mean(0)]
        else:
            moments += [means, means.square()]
    return moments
