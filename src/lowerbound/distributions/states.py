"""All values of a finite random variable: what makes an expectation a sum, without draws and their
noise.

n independent entries with C values each have C^n states.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from lowerbound.shapes import Shape


def states(distribution: Distribution) -> Tensor:
    """Every value that one event can take, (S, *event), the same for all of a batch.

    Raises:
        ValueError: the distribution has no finite support that torch can enumerate.

    Example:
        >>> from torch.distributions import Bernoulli
        >>> states(Independent(Bernoulli(torch.full((7, 2), 0.3)), 1))
        tensor([[0., 0.],
                [0., 1.],
                [1., 0.],
                [1., 1.]])
    """
    each, entries, event = _each(distribution)
    n = torch.Size(entries).numel()
    chosen = torch.cartesian_prod(*[torch.arange(len(each), device=each.device)] * n).reshape(-1, n)
    return each[chosen].reshape(len(chosen), *event)


def count_states(distribution: Distribution) -> int:
    """How many there are: S.

    Raises:
        ValueError: as :func:`states`.

    Example:
        >>> from torch.distributions import Bernoulli
        >>> count_states(Independent(Bernoulli(torch.full((100,), 0.3)), 1)) == 2**100
        True
    """
    each, entries, _ = _each(distribution)
    return int(len(each) ** torch.Size(entries).numel())


def _each(distribution: Distribution) -> tuple[Tensor, Shape, Shape]:
    """The values of one entry, (C, *its event); the entries of an event; the shape of an event."""
    depth, base = 0, distribution
    while isinstance(base, Independent):
        depth, base = depth + base.reinterpreted_batch_ndims, base.base_dist
    if not base.has_enumerate_support:
        raise ValueError(
            f"{type(base).__name__} has no finite number of states that could be enumerated"
        )
    each = base.enumerate_support(expand=False)
    entries = tuple(base.batch_shape[len(base.batch_shape) - depth :]) if depth else ()
    return each.reshape(len(each), *base.event_shape), entries, tuple(distribution.event_shape)
