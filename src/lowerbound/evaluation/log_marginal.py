"""The importance-weighted estimate of log p(x) (Burda, Grosse and Salakhutdinov 2015, arXiv 1509.00519).

    L_K(x) = log (1/K) sum_k w_k,   w_k = p(x, z_k) / q(z_k|x),   z_k ~ q(z|x)

E[L_K] is at most log p(x), grows with K and approaches it at rate 1/K where the weights have enough finite moments: a lower
bound in expectation, biased downwards, whatever its standard error. L_1 is the ELBO with a sampled KL.

The K draws are made in chunks that fit in memory, and the weights are summed by a streaming logsumexp: exactly K draws,
and the same estimator whatever the chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from lowerbound.distributions import mean
from lowerbound.draw import Draw
from lowerbound.modes import evaluating
from lowerbound.roles import Context
from lowerbound.seeding import seeded

VALUES = 2**24  # numbers that one chunk's p(x|z) may hold: 64 MiB in float32
ROWS = 2**15  # draws times examples in a chunk, which bounds the activations of hidden layers: 64 MiB for 512 units


@dataclass(frozen=True)
class Evidence:
    """What K draws say about each of B examples, each (B,), in nats.

    Args:
        log_marginal: the K-sample estimate of log p(x).
        rate: KL(q(z|x) ‖ p(z)), in closed form where there is one, else averaged over the K draws.
        distortion: -E_q[log p(x|z)], averaged over the K draws.
        means: posterior means, (B, number of latent dimensions).
        is_density: False where the model's score is no log-density, and log_marginal therefore no evidence.
    """

    log_marginal: Tensor
    rate: Tensor
    distortion: Tensor
    means: Tensor
    is_density: bool


def evidence(
    model: Callable[..., Draw], x: Tensor, context: Context | None = None, samples: int = 100, chunk: int | None = None
) -> Evidence:
    """Importance-weighted evidence of a batch x (B, *X) from exactly ``samples`` draws for each example.

    Args:
        model: gives a draw.
        x: the data, (B, *X).
        context: labels, mask and the like.
        samples: K.
        chunk: draws at a time; by default as many as keep p(x|z), and a hidden layer of 512 units, below 64 MiB.

    Raises:
        ValueError: K or the chunk below 1.
    """
    if samples < 1 or (chunk is not None and chunk < 1):
        raise ValueError(f"samples is {samples} and chunk {chunk}: at least 1 draw is needed")
    log_sums, rates, distortions, means = [], [], [], []
    done = 0
    size = chunk or 1  # the first draw shows what one costs
    while done < samples:
        draw = model(x, context, min(size, samples - done))
        k = draw.log_w.shape[0]
        share = k / samples  # a chunk's own weights average over k draws; its share makes that an average over all K
        log_sums.append(torch.logsumexp(draw.log_w + draw.log_m, 0) + math.log(share))
        rates.append(draw.rate * share)
        distortions.append(draw.distortion * share)
        if done == 0:
            means = [mean(latent.q).reshape(len(x), -1) for latent in draw.latents]
            size = chunk or max(1, min(VALUES // max(1, _values(draw.px) // k), ROWS // len(x)))
        done += k
    return Evidence(
        log_marginal=torch.logsumexp(torch.stack(log_sums), 0),
        rate=torch.stack(rates).sum(0),
        distortion=torch.stack(distortions).sum(0),
        means=torch.cat(means, 1),
        is_density=draw.is_density,
    )


def log_marginal(
    model: Callable[..., Draw],
    x: Tensor,
    context: Context | None = None,
    samples: int = 100,
    seed: int | None = None,
    chunk: int | None = None,
) -> Tensor:
    """The K-sample estimate of log p(x) for each example, (B,), in nats, without gradients.

    Raises:
        ValueError: K or the chunk below 1, or a model whose score is no log-density.

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
    with torch.no_grad(), seeded(seed), evaluating(model) if isinstance(model, nn.Module) else nullcontext():
        found = evidence(model, x, context, samples, chunk)
        if not found.is_density:
            raise ValueError(
                "this model scores x by binary cross-entropy, which is no log-density, so it has no log p(x); "
                "train one with a likelihood (Bernoulli on binarised data, Categorical, Normal)"
            )
        return found.log_marginal


def _values(distribution: Distribution) -> int:
    """How many numbers a distribution holds."""
    if isinstance(distribution, Independent):
        return _values(distribution.base_dist)
    own = vars(distribution).values()
    return sum(v.numel() if isinstance(v, Tensor) else _values(v) if isinstance(v, Distribution) else 0 for v in own)
