"""The importance-weighted estimate of log p(x) (Burda, Grosse and Salakhutdinov 2015, arXiv 1509.00519).

    L_K(x) = log (1/K) sum_k w_k,   w_k = p(x, z_k) / q(z_k|x),   z_k ~ q(z|x)

E[L_K] is at most log p(x), grows with K and approaches it at rate 1/K where the weights have enough finite moments: a lower
bound in expectation, biased downwards, whatever its standard error. L_1 is the ELBO with a sampled KL.

The K draws are made in chunks that fit in memory, of which only the weights are kept: exactly K draws, and the same
estimator whatever the chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowerbound.checks import check_density, check_finite
from lowerbound.distributions import categories, mean
from lowerbound.draw import Draw
from lowerbound.memory import check_fits, values_held
from lowerbound.modes import evaluating
from lowerbound.roles import Context
from lowerbound.seeding import seeded

VALUES = 2**24  # numbers that one chunk's p(x|z) may hold: 64 MiB in float32
ROWS = 2**15  # draws times examples in a chunk, which bounds the activations of hidden layers: 64 MiB for 512 units
BATCH = 100  # examples at a time: enough for large matrix products, and K = 5,000 weights of each are 2 MB


@dataclass(frozen=True)
class Evidence:
    """What K draws say about each of B examples, in nats.

    Args:
        log_terms: what each draw contributes to the estimate of p(x), log w_k + log m_k, (K, B): the terms sum to it.
        rate: KL(q(z|x) ‖ p(z)), in closed form where there is one, else averaged over the K draws, (B,).
        rates: what each latent adds to it, each (B,), by its name in the log and in the order of the draw.
        rate_per_dimension: the rate of each latent dimension, (B, dimensions); None where they are not independent.
        distortion: -E_q[log p(x|z)], averaged over the K draws, (B,).
        means: posterior means of each latent, averaged over what it depends on, each (B, number of its variables, C): C = 1,
            and the number of categories of categorical codes.
        noise: variance of those averages over the draws, of the same shapes; zero where it depends on no other latent.
        is_density: False where the model's score is no log-density, and log_marginal therefore no evidence.
        is_exact: True where the terms are all values of z that q allows, and no draws; their sum is then log p(x) itself, or
            a lower bound without noise where p allows others too (vector quantisation).
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
        chunk: draws at a time; by default as many as keep p(x|z), and a hidden layer of 512 units, below 64 MiB.

    Raises:
        ValueError: K or the chunk below 1.
    """
    for name, value in (("samples", samples), ("chunk", chunk)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}: at least 1 draw is needed")
    check_fits(
        8 * samples * len(x), f"{samples:,} importance weights for each of {len(x):,} examples", "take fewer samples"
    )
    log_terms, rates, distortions, means, per_dimension = [], [], [], [], []
    done = 0
    size = chunk or 1  # the first draw shows what one costs
    is_exact = False
    while done < samples:
        asked = min(size, samples - done)
        draw = model(x, context, asked)
        is_exact = draw.is_enumerated
        if is_exact:
            asked = samples
        rows = draw.log_w.shape[0]
        share = asked / samples  # a chunk's own weights average over its draws; its share makes that an average over K
        terms = draw.log_w + draw.log_m + math.log(share)
        # where a label is summed out, a draw has a row for each label, and is one draw by their sum
        one_each = is_exact or rows == asked
        log_terms.append(terms if one_each else torch.logsumexp(terms.reshape(asked, -1, len(x)), 1))
        rates.append([own * share for own in draw.rates_by("auto")])
        distortions.append(draw.distortion * share)
        is_chain = any(len(latent.q.batch_shape) > 1 for latent in draw.latents)
        if done == 0 or is_chain:  # else they do not depend on the draws, and are the same in every chunk
            part = draw.rate_per_dimension
            per_dimension.append(part if part is None or not is_chain else part * share)
            means.append([own if not is_chain else own * share for own in _moments(draw, 1 if is_exact else asked)])
        if done == 0:
            size = chunk or max(1, min(VALUES // max(1, values_held(draw.px) // rows), ROWS // len(x)))
        done += asked
    moments = [torch.stack(own).sum(0) for own in zip(*means, strict=True)]
    averages, squares = moments[::2], moments[1::2]
    known = [part for part in per_dimension if part is not None]
    return Evidence(
        log_terms=torch.cat(log_terms),
        rate=torch.stack([own for part in rates for own in part]).sum(0),
        rates={name: torch.stack(own).sum(0) for name, *own in zip(draw.names, *rates, strict=True)},
        rate_per_dimension=torch.stack(known).sum(0) if len(known) == len(per_dimension) else None,
        distortion=torch.stack(distortions).sum(0),
        means=tuple(averages),
        noise=tuple((s - m**2).clamp(min=0) / max(1, samples - 1) for m, s in zip(averages, squares, strict=True)),
        is_density=draw.is_density,
        is_exact=is_exact,
    )


def _moments(draw: Draw, draws: int) -> list[Tensor]:
    """The mean over the draws of each latent's posterior mean, and of its square, each (B, variables, C).

    Args:
        draw: of one or more rows a draw, by which a label is summed out.
        draws: how many.
    """
    moments = []
    for latent in draw.latents:
        own = mean(latent.q)
        own = own.reshape(*latent.q.batch_shape, -1, categories(latent.q))
        if own.ndim == 4:
            weighted = draw.log_m.exp().broadcast_to(own.shape[:2])[..., None, None] * own
            own = draws * weighted.reshape(draws, -1, *own.shape[1:]).sum(1)
            moments += [own.mean(0), own.square().mean(0)]
        else:
            moments += [own, own.square()]
    return moments


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
