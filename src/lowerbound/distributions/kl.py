"""KL(q ‖ p) = E_q[log q(z) - log p(z)] in closed form, where torch's registry has the pair.

The KL is never negative: -log is convex, so by Jensen's inequality E_q[-log(p/q)] >= -log E_q[p/q] = 0.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

_without_rule: set[tuple[type, ...]] = set()


def _kinds(distribution: Distribution) -> tuple[type, ...]:
    if isinstance(distribution, Independent):
        return (Independent, *_kinds(distribution.base_dist))
    return (type(distribution),)


def closed_form_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q ‖ p) in nats, broadcast over the batch shapes; None where no closed form is registered for the pair.

    Register a missing pair with ``torch.distributions.register_kl``. Which pairs have no rule is remembered, since
    torch's dispatch searches all rules before it gives up and cannot be traced by ``torch.compile``.

    Example:
        >>> from torch.distributions import Laplace, Normal
        >>> round(closed_form_kl(Normal(1.0, 2.0), Normal(0.0, 1.0)).item(), 4)
        1.3069
        >>> closed_form_kl(Laplace(0.0, 1.0), Normal(0.0, 1.0)) is None
        False

    """
    pair = (*_kinds(q), *_kinds(p))
    if pair in _without_rule:
        return None
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        _without_rule.add(pair)
        return None
