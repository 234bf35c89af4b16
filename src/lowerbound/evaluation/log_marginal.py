"""The importance-weighted estimate of log p(x) (Burda, Grosse and Salakhutdinov 2015, arXiv 1509.00519).

    L_K(x) = log (1/K) sum_k w_k,   w_k = p(x, z_k) / q(z_k|x),   z_k ~ q(z|x)

E[L_K] is at most log p(x), grows with K and approaches it at rate 1/K where the weights have enough finite moments: a lower
bound in expectation, biased downwards, whatever its standard error. L_1 is the ELBO with a sampled KL.

The K draws are made in chunks that fit in memory, of which only the weights are kept: exactly K draws, and the same
estimator whatever the chunk. A chunk is a network pass over few examples with many draws of each: what depends on x alone is
then worked out once for thousands of draws, and on a CPU what is written of p(x|z) is still in the cache when it is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowerbound.checks import check_density, check_finite
from lowerbound.distributions import categories, mean
from lowerbound.draw import Draw
from lowerbound.memory import check_fits, keep_freed, values_held
from lowerbound.modes import evaluating
from lowerbound.roles import Context
from lowerbound.seeding import seeded

VALUES = 2**24  # numbers that one chunk's p(x|z) may hold: 64 MiB in float32
CACHED = 2**22  # the same on a CPU: 16 MiB, where passes over them are several times faster than over memory
ROWS = 2**15  # draws times examples in a chunk, which bounds the activations of hidden layers: 64 MiB for 512 units
BATCH = 100  # examples at a time: enough for large matrix products, and K = 5,000 weights of each are 2 MB


@dataclass(frozen=True)
class Evidence:
    """What K draws say about each of B examples, in nats.

    Args:
        log_terms: what each draw contributes to the estimate of p(x), log w_k + log m_k, (K, B): the terms sum to it.
        rate: KL(q(z|x) ‖ p(z)), in closed form where there is one, else averaged over the K draws, (B,).
        rate_per_dimension: the rate of each latent dimension, (B, dimensions); None where they are not independent.
        distortion: -E_q[log p(x|z)], averaged over the K draws, (B,).
        means: posterior means, (B, number of latent variables, C): C = 1, and the number of categories of categorical codes.
        is_density: False where the model's score is no log-density, and log_marginal therefore no evidence.
        is_exact: True where the terms are all values of z that q allows, and no draws; their sum is then log p(x) itself, or
            a lower bound without noise where p allows others too (vector quantisation).
    """

    log_terms: Tensor
    rate: Tensor
    rate_per_dimension: Tensor | None
    distortion: Tensor
    means: Tensor
    is_density: bool
    is_exact: bool

    @property
    def log_marginal(self) -> Tensor:
        """The K-sample estimate of log p(x), (B,)."""
        return torch.logsumexp(self.log_terms, 0)


def evidence(
    model: Callable[..., Draw], x: Tensor, context: Context | None = None, samples: int = 100, chunk: int | None = None
) -> Evidence:
    """Importance-weighted evidence of a batch x (B, *X) from exactly ``samples`` draws for each example.

    Where the model enumerates its latent, each value of z counts once, and ``samples`` and ``chunk`` are not asked.

    Args:
        model: gives a draw.
        x: the data, (B, *X).
        context: labels, mask and the like.
        samples: K.
        chunk: draws at a time, of all examples; by default so many, of so few examples, that p(x|z) stays below 16 MiB on
            a CPU and below 64 MiB elsewhere, and a hidden layer of 512 units below 64 MiB. Under one seed other chunks are
            other draws.

    Raises:
        ValueError: K or the chunk below 1.
    """
    for name, value in (("samples", samples), ("chunk", chunk)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}: at least 1 draw is needed")
    check_fits(
        8 * samples * len(x), f"{samples:,} importance weights for each of {len(x):,} examples", "take fewer samples"
    )
    keep_freed()
    draw = model(x, context, min(chunk or 1, samples))  # shows what a draw costs
    done = samples if draw.is_enumerated else len(draw.log_w)
    parts = [_told(draw, done / samples)]
    if done < samples:
        size, examples = (chunk, len(x)) if chunk else _cut(draw, samples - done)
        context = context or Context()
        groups = [slice(start, start + examples) for start in range(0, len(x), examples)]
        more = [_drawn(model, x[rows], context[rows], samples - done, size, samples) for rows in groups]
        of_terms, of_rates, of_distortions = zip(*more, strict=True)
        parts.append((torch.cat(of_terms, 1), torch.cat(of_rates), torch.cat(of_distortions)))
    log_terms, rates, distortions = zip(*parts, strict=True)
    means = [mean(latent.q).reshape(len(x), -1, categories(latent.q)) for latent in draw.latents]
    widest = max(own.shape[2] for own in means)
    return Evidence(
        log_terms=torch.cat(log_terms),
        rate=torch.stack(rates).sum(0),
        rate_per_dimension=draw.rate_per_dimension,  # in closed form, so the same whatever the draws
        distortion=torch.stack(distortions).sum(0),
        means=torch.cat([nn.functional.pad(own, (0, widest - own.shape[2])) for own in means], 1),
        is_density=draw.is_density,
        is_exact=draw.is_enumerated,
    )


def _cut(draw: Draw, samples: int) -> tuple[int, int]:
    """Draws and examples of a chunk: as many draws as there are to make, and as few examples as fill it."""
    values = CACHED if draw.log_w.device.type == "cpu" else VALUES
    rows = max(1, min(ROWS, values * draw.log_w.numel() // max(1, values_held(draw.px))))
    chunks = math.ceil(samples / rows)
    return math.ceil(samples / chunks), max(1, rows // samples)


def _drawn(
    model: Callable[..., Draw], x: Tensor, context: Context, samples: int, chunk: int, of: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What ``samples`` draws contribute to the sums over ``of``."""
    sizes = [min(chunk, samples - start) for start in range(0, samples, chunk)]
    parts = [_told(model(x, context, size), size / of) for size in sizes]
    log_terms, rates, distortions = zip(*parts, strict=True)
    return torch.cat(log_terms), torch.stack(rates).sum(0), torch.stack(distortions).sum(0)


def _told(draw: Draw, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Log-terms (k, B), rate and distortion (B,) of draws that are a share of all.

    Their own weights average over themselves, and their share makes that a part of the average over all.
    """
    return draw.log_w + draw.log_m + math.log(share), draw.rate * share, draw.distortion * share


def log_marginal(
    model: Callable[..., Draw],
    x: Tensor,
    context: Context | None = None,
    samples: int = 100,
    seed: int | None = None,
    chunk: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The K-sample estimate of log p(x) for each example, (n,), in nats, without gradients.

    Args:
        model: gives a draw; put into evaluation mode meanwhile.
        x: any number of examples, (n, *X); 100 are worked on at a time.
        context: labels, mask and the like.
        samples: K.
        seed: of the draws; None uses the global state.
        chunk: draws at a time, as in :func:`evidence`.
        on_progress: called with (examples done, examples in all).

    Raises:
        ValueError: K or the chunk below 1, weights that are not finite (how many, and of which examples), or a model whose
            score is no log-density.

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
    found, unfit = [], []
    with torch.no_grad(), seeded(seed), evaluating(model) if isinstance(model, nn.Module) else nullcontext():
        for start in range(0, len(x), BATCH):
            rows = slice(start, start + BATCH)
            part = evidence(model, x[rows], context[rows], samples, chunk)
            check_density(part.is_density)
            found.append(part.log_marginal)
            unfit.append((~torch.isfinite(part.log_terms)).sum(0))
            if on_progress:
                on_progress(min(start + BATCH, len(x)), len(x))
    check_finite(torch.cat(unfit), samples)
    return torch.cat(found)
