"""How much z says about x, and how far its aggregate lies from the prior (Hoffman and Johnson
2016).

    E[rate] = I_q(x; z) + KL(q(z) ‖ p(z)),    q(z) = E_x[q(z|x)]

From n examples, z_i ~ q(z|x_i), one draw each, q(z) is estimated in two ways that err in opposite
directions:

    q(z_i) by the average over all n examples, x_i among them     KL too large, I too small, and
    never above log n q(z_i) by the average over the n - 1 others                   KL too small, I
    too large

Each KL is the mean of log q(z_i) - log p(z_i); the smaller I is the mean of log q(z_i|x_i) - log
q(z_i), the larger one the mean rate less the smaller KL. All are bounds in expectation (Poole,
Ozair, van den Oord, Alemi and Tucker 2019, arXiv 1905.06922, section 2). Where codes hardly
overlap, the second KL is clearly negative and tells nothing; the KL is then at least 0 and I at
most the rate, which are bounds too.

Standard errors are over the examples and leave out that all share one estimate of q(z).

Every z_i is evaluated under every q(z|x_j). For a normal that is a sum; an inverse autoregressive
flow is inverted entry by entry, a network pass for each. So that this stays a matter of half a
minute, such a q is given only so many of the examples as take 2^24 passes in all (409 for 50
entries and 2 steps): bounds as valid, and less tight.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.distributions import Flow
from lowerbound.draw import Draw
from lowerbound.roles import Context

# standard errors below 0 at which the second KL counts as negative: by chance, one in a thousand is
CLEAR = 3.0
# numbers that are held at a time: 16 MiB, several times over inside a distribution
MAX_PAIRWISE_VALUES = 2**22
PASSES = 2**24  # through the networks of a flow: half a minute on one core for 128 hidden units


@dataclass(frozen=True)
class Information:
    """One value for each of n examples, each (n,), in nats; their means are bounds in expectation.

    Args:
        mutual_information: of which the mean is at most I_q(x; z), and at most log n.
        mutual_information_upper: of which it is at least I_q(x; z).
        marginal_kl: of which it is at least KL(q(z) ‖ p(z)).
        marginal_kl_lower: of which it is at most KL(q(z) ‖ p(z)); None where no more is known than
            that this is at least 0.
    """

    mutual_information: Tensor
    mutual_information_upper: Tensor
    marginal_kl: Tensor
    marginal_kl_lower: Tensor | None


def information(
    model: Callable[..., Draw], x: Tensor, context: Context | None = None, batch_size: int = 100
) -> Information | None:
    """Mutual information of x and z under q, and the KL from the aggregate posterior to the prior.

    The cost grows with the square of the number of examples. Where q is a flow whose inverse takes
    many network passes, only the first of them are used.

    Args:
        model: gives a draw.
        x: at least two examples, (n, *X).
        context: labels, mask and the like.
        batch_size: examples that the model sees at a time.

    Returns:
        None for fewer than two examples, where q knows its density at its own draws alone, and
        where q of one latent depends on another's draw, or the prior on y: there is then no one
        p(z) to compare an aggregate with.

    Example:
        >>> import lowerbound as lb
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal((2,)),
        ...     posterior=lb.posteriors.DiagonalNormal((4,), (2,)),
        ...     likelihood=lb.likelihoods.Bernoulli((2,), (4,)),
        ... )
        >>> bounds = information(model, torch.eye(4))
        >>> bool(bounds.mutual_information.mean() <= math.log(4))
        True
    """
    n, context = len(x), context or Context()
    if n < 2:
        return None
    qs, zs, log_ps, rates = [], [], [], []
    for start in range(0, n, batch_size):
        rows = slice(start, start + batch_size)
        draw = model(x[rows], context[rows], 1)
        if any(len(latent.q.batch_shape) != 1 or latent.p.batch_shape for latent in draw.latents):
            return None
        # the one draw; where all values of z are there instead, each is it with probability m_k
        n_here = draw.log_pz.shape[1]
        k = (
            torch.multinomial(draw.log_m.exp().T, 1)[:, 0]
            if draw.is_enumerated
            else torch.zeros(n_here, dtype=torch.long)
        )
        i = torch.arange(n_here)
        qs.append([latent.q for latent in draw.latents])
        zs.append([latent.z[k, i] for latent in draw.latents])
        log_ps.append(draw.log_pz[k, i])
        rates.append(draw.rate)
        n = min(n, _affordable([latent.q for latent in draw.latents]))
        if start + batch_size >= n:
            break
    z = [torch.cat(parts)[:n] for parts in zip(*zs, strict=True)]
    log_p, rate = torch.cat(log_ps)[:n], torch.cat(rates)[:n]
    size = max(1, MAX_PAIRWISE_VALUES // (batch_size * sum(part[0].numel() for part in z)))
    conditional, inner, outer = [], [], []  # log q(z|x), and of q(z) with x and without
    try:
        _log_q(qs[0], [part[:1] for part in z])
    except NotImplementedError:
        return None
    for start in range(0, n, size):
        rows = slice(start, start + size)
        pairs = torch.cat([_log_q(q, [part[rows] for part in z]) for q in qs], 1)[
            :, :n
        ]  # (size, n)
        i = torch.arange(len(pairs), device=pairs.device)
        conditional.append(pairs[i, i + start])
        inner.append(torch.logsumexp(pairs, 1) - math.log(n))
        others = pairs.index_put(
            (i, i + start), torch.tensor(-math.inf, dtype=pairs.dtype, device=pairs.device)
        )
        outer.append(torch.logsumexp(others, 1) - math.log(n - 1))
    # and not the rate less a sampled KL: this is never above log n
    mutual = torch.cat(conditional) - torch.cat(inner)
    upper, lower = torch.cat(inner) - log_p, torch.cat(outer) - log_p
    # an example whose codes no other example has leaves nothing to average over
    if not bool(lower.isfinite().all()) or lower.mean() < -CLEAR * lower.std() / math.sqrt(n):
        return Information(mutual, rate, upper, None)
    return Information(mutual, rate - lower, upper, lower)


def _affordable(qs: list[Distribution]) -> int:
    """How many examples may be paired with each other."""
    passes = sum(q.passes for q in qs if isinstance(q, Flow))
    return max(2, math.isqrt(PASSES // max(1, passes)))


def _log_q(qs: list[Distribution], z: list[Tensor]) -> Tensor:
    """Log q(z_i|x_j) for every pair, (size, B)."""
    return torch.stack([q.log_prob(part[:, None]) for q, part in zip(qs, z, strict=True)]).sum(0)
