"""KL(q ‖ p) = E_q[log q(z) - log p(z)] in closed form, where there is one.

The KL is never negative: -log is convex, so by Jensen's inequality E_q[-log(p/q)] >= -log E_q[p/q]
>= 0, the last because p integrates to at most one where q is positive.

The formulas are those of torch's registry, but for that to the standard normal, which is shorter.
Normal distributions of different form (diagonal and full covariance) meet as multivariate normals.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal, kl_divergence

from lowerbound.distributions.entrywise_normal import UnitNormal
from lowerbound.distributions.full_normal import as_multivariate


def closed_form_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q ‖ p) in nats, broadcast over the batch shapes; None where no closed form is known for
    the pair.

    Register a missing pair with ``torch.distributions.register_kl``.

    Example:
        >>> import torch
        >>> from torch.distributions import Cauchy, Normal
        >>> p = Normal(torch.tensor(0.0), torch.tensor(1.0))
        >>> round(closed_form_kl(Normal(1.0, 2.0), p).item(), 4)
        1.3069
        >>> closed_form_kl(Cauchy(0.0, 1.0), p) is None
        True
    """
    kl = _by_formula(q, p)
    if kl is None:
        full_q, full_p = as_multivariate(q), as_multivariate(p)
        if full_q is not None and full_p is not None:
            kl = _by_formula(full_q, full_p)
    return kl


def kl_per_dimension(q: Distribution, p: Distribution) -> Tensor | None:
    """The KL of each entry of z, (B, *Z), in nats, where both distributions have independent
    entries; else None.

    It sums to the KL.

    Example:
        >>> import torch
        >>> from torch.distributions import Normal
        >>> q = Independent(Normal(torch.ones(5, 3), 1.0), 1)
        >>> p = Independent(Normal(torch.zeros(3), 1.0), 1)
        >>> kl_per_dimension(q, p)[0]
        tensor([0.5000, 0.5000, 0.5000])
    """
    if not (isinstance(q, Independent) and isinstance(p, Independent)):
        return None
    return _by_formula(q.base_dist, p.base_dist)


def _by_formula(q: Distribution, p: Distribution) -> Tensor | None:
    """By the formula to the standard normal, or by torch's registry, which remembers the rule that
    it found for two types.

    Its first search cannot be traced by ``torch.compile``; call a model once before it is compiled
    in one graph.
    """
    if isinstance(q, Normal) and isinstance(p, UnitNormal):
        return p.kl_from(q)
    if isinstance(q, Independent) and isinstance(p, Independent):
        n, of_q, of_p = q.reinterpreted_batch_ndims, q.base_dist, p.base_dist
        if (
            n
            and n == p.reinterpreted_batch_ndims
            and isinstance(of_q, Normal)
            and isinstance(of_p, UnitNormal)
        ):
            return of_p.kl_from(of_q).flatten(-n).sum(-1)
    if isinstance(p.base_dist if isinstance(p, Independent) else p, Bernoulli):
        p = p.expand(
            torch.broadcast_shapes(q.batch_shape, p.batch_shape)
        )  # torch's formula for these does not broadcast
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None
