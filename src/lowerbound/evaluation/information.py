"""How much z says about x, and how far its aggregate lies from the prior (Hoffman and Johnson 2016).

    E[rate] = I_q(x; z) + KL(q(z) ‖ p(z)),    q(z) = E_x[q(z|x)]

From n examples, z_i ~ q(z|x_i), one draw each, q(z) is estimated in two ways that err in opposite directions:

    q(z_i) by the average over all n examples, x_i among them       I too small, and never above log n
    q(z_i) by the average over the n - 1 others                     I too large

Both are bounds in expectation (Poole, Ozair, van den Oord, Alemi and Tucker 2019, arXiv 1905.06922, section 2). Where codes
hardly overlap, the second exceeds the rate, which is itself above I since the KL is not negative; the rate is then given
instead. Standard errors are over the examples and leave out that all share one estimate of q(z).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lowerbound.draw import Draw
from lowerbound.roles import Context

VALUES = 2**22  # numbers that are held at a time: 16 MiB, several times over inside a distribution


@dataclass(frozen=True)
class Information:
    """One value for each of n examples, each (n,), in nats; their means are bounds in expectation.

    Args:
        mutual_information: of which the mean is at most I_q(x; z), and at most log n.
        mutual_information_upper: of which it is at least I_q(x; z).
        marginal_kl: of which it is at least KL(q(z) ‖ p(z)).
        marginal_kl_lower: of which it is at most KL(q(z) ‖ p(z)).
    """

    mutual_information: Tensor
    mutual_information_upper: Tensor
    marginal_kl: Tensor
    marginal_kl_lower: Tensor


def information(model: Callable[..., Draw], x: Tensor, context: Context | None = None) -> Information | None:
    """Mutual information of x and z under q, and the KL from the aggregate posterior to the prior.

    The cost grows with the square of the number of examples.

    Args:
        model: gives a draw.
        x: at least two examples, (n, *X).
        context: labels, mask and the like.

    Returns:
        None for fewer than two examples, and where q of one latent depends on another's draw.

    Example:
        >>> import lowerbound as lb
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal((2,)),
        ...     posterior=lb.posteriors.DiagonalNormal((4,), (2,)),
        ...     likelihood=lb.likelihoods.Bernoulli((2,), (4,)),
        ... )
        >>> found = information(model, torch.eye(4))
        >>> bool(found.mutual_information.mean() <= math.log(4))
        True
    """
    n = len(x)
    draw = model(x, context, 1)
    if n < 2 or any(len(latent.q.batch_shape) != 1 for latent in draw.latents):
        return None
    size = max(1, VALUES // (n * sum(latent.z[0, 0].numel() for latent in draw.latents)))
    own, inner, outer = [], [], []
    for start in range(0, n, size):
        rows = slice(start, start + size)
        pairs = torch.stack([latent.q.log_prob(latent.z[0, rows, None]) for latent in draw.latents]).sum(0)  # (size, n)
        i = torch.arange(len(pairs), device=pairs.device)
        own.append(pairs[i, i + start])
        inner.append(torch.logsumexp(pairs, 1) - math.log(n))
        others = pairs.index_put((i, i + start), torch.tensor(-math.inf, dtype=pairs.dtype, device=pairs.device))
        outer.append(torch.logsumexp(others, 1) - math.log(n - 1))
    log_q, log_all, log_others = (torch.cat(part) for part in (own, inner, outer))
    log_p = draw.log_pz[0]
    upper, lower = log_q - log_others, log_others - log_p
    if upper.mean() > draw.rate.mean():
        upper, lower = draw.rate, torch.zeros_like(draw.rate)
    return Information(log_q - log_all, upper, log_all - log_p, lower)
