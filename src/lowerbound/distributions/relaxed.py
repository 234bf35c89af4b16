"""Discrete codes with draws that have a gradient: the Concrete, or Gumbel-softmax, distribution.

Of Gumbel noise g, argmax_c (log p_c + g_c) is an exact draw of a category. Its relaxation at
temperature t,

    z = softmax((log p + g) / t),

is differentiable in p, lies inside the simplex, has a density there, and tends to the unit vector
of that category as t falls to 0. The same of logistic noise l is sigmoid((logit + l) / t) for a bit
(Maddison, Mnih and Teh 2017, arXiv 1611.00712; Jang, Gu and Poole 2017, arXiv 1611.01144).

Densities of both are best taken of what goes into the softmax or the sigmoid (Maddison et al.,
appendix C.3): in float32 a z that rounds to 0 or 1 has forgotten which draw it was, and any density
there is that of another one. A map on which q and p agree changes both by the same Jacobian, so
that log p - log q is that of z.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Distribution,
    Independent,
    OneHotCategorical,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
)
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical
from torch.distributions.utils import clamp_probs
from torch.nn.functional import softplus


class RelaxedOneHot(RelaxedOneHotCategorical):
    """torch's, with draws whose logarithm is finite: at a low temperature most entries of a softmax
    round to zero.

    Example:
        >>> z = RelaxedOneHot(torch.tensor(0.01), logits=torch.zeros(3)).rsample((1000,))
        >>> bool((z > 0).all())
        True
    """

    # torch says Size alone
    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        z: Tensor = super().rsample(torch.Size(sample_shape))
        return z.clamp_min(torch.finfo(z.dtype).tiny)


class RelaxedLogit(LogitRelaxedBernoulli):
    """torch's, right at any logit: torch draws by p, which float32 rounds to 1 above a logit of 17,
    and its density overflows at a noise of 89.

    Example:
        >>> q = RelaxedLogit(torch.tensor(0.5), logits=torch.tensor(60.0))
        >>> l = q.rsample((1000,))
        >>> bool((l > 80).all()), bool((q.log_prob(l) < 0).all())
        (True, True)
    """

    # torch says Size alone
    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        shape = self._extended_shape(torch.Size(sample_shape))
        u = clamp_probs(torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device))
        return (self.logits + u.log() - (-u).log1p()) / self.temperature

    def log_prob(self, value: Tensor) -> Tensor:
        noise = self.logits - value * self.temperature
        log_p: Tensor = self.temperature.log() - softplus(noise) - softplus(-noise)
        return log_p


def relaxed_logits(discrete: Distribution, temperature: float) -> Distribution:
    """The law of what :func:`squashed` turns into draws of :func:`relaxed`: logits of bits, log z
    of unit vectors.

    Raises:
        ValueError: a distribution of another kind.

    Example:
        >>> from lowerbound.distributions import OneHot
        >>> free = relaxed_logits(
        ...     Independent(OneHot(logits=torch.zeros(5, 3, 4)), 1), temperature=0.5
        ... )
        >>> z = squashed(free, free.rsample((7,)))
        >>> z.shape, torch.allclose(z.sum(-1), torch.tensor(1.0))
        (torch.Size([7, 5, 3, 4]), True)
    """
    if isinstance(discrete, Independent):
        free = relaxed_logits(discrete.base_dist, temperature)
        return Independent(free, discrete.reinterpreted_batch_ndims, validate_args=False)
    if isinstance(discrete, OneHotCategorical):
        at = discrete.logits.new_full((), temperature)
        return ExpRelaxedCategorical(at, logits=discrete.logits, validate_args=False)
    if isinstance(discrete, Bernoulli):
        at = discrete.logits.new_full((), temperature)
        return RelaxedLogit(at, logits=discrete.logits, validate_args=False)
    raise ValueError(
        f"{type(discrete).__name__} has no relaxation; there is one of unit vectors and one of bits"
    )


def squashed(free: Distribution, logits: Tensor) -> Tensor:
    """The points between codes for draws of :func:`relaxed_logits`, (..., *event) -> (...,
    *event).
    """
    return logits.sigmoid() if isinstance(_base(free), RelaxedLogit) else logits.exp()


def relaxed(discrete: Distribution, temperature: float) -> Distribution:
    """The relaxation of a distribution over unit vectors or bits, with the same batch and event
    shape: a density.

    Raises:
        ValueError: a distribution of another kind.

    Example:
        >>> from lowerbound.distributions import OneHot
        >>> q = Independent(OneHot(logits=torch.zeros(5, 3, 4)), 1)
        >>> z = relaxed(q, temperature=0.5).rsample((7,))
        >>> z.shape, torch.allclose(z.sum(-1), torch.tensor(1.0))
        (torch.Size([7, 5, 3, 4]), True)
    """
    if isinstance(discrete, Independent):
        return Independent(
            relaxed(discrete.base_dist, temperature),
            discrete.reinterpreted_batch_ndims,
            validate_args=False,
        )
    if isinstance(discrete, OneHotCategorical):
        at = discrete.logits.new_full((), temperature)
        return RelaxedOneHot(at, logits=discrete.logits, validate_args=False)
    if isinstance(discrete, Bernoulli):
        at = discrete.logits.new_full((), temperature)
        return RelaxedBernoulli(at, logits=discrete.logits, validate_args=False)
    raise ValueError(
        f"{type(discrete).__name__} has no relaxation; there is one of unit vectors and one of bits"
    )


def straight_through(discrete: Distribution, temperature: float, shape: torch.Size) -> Tensor:
    """Exact draws of unit vectors or bits, with the gradient of relaxed ones, (*shape, *batch,
    *event).

    Raises:
        ValueError: a distribution of another kind.

    Example:
        >>> from lowerbound.distributions import OneHot
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> z = straight_through(OneHot(logits=logits), 1.0, torch.Size((2,)))
        >>> z.detach().sum(-1), z.requires_grad
        (tensor([1., 1.]), True)
    """
    soft = relaxed(discrete, temperature).rsample(shape)
    return nearest(discrete, soft) + (soft - soft.detach())  # the bracket is exactly zero


def nearest(discrete: Distribution, soft: Tensor) -> Tensor:
    """The code of a distribution over unit vectors or bits that is nearest to each point, (...,
    *event) -> (..., *event).
    """
    if isinstance(_base(discrete), Bernoulli):
        return (soft > 0.5).to(soft.dtype)
    return torch.nn.functional.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)


def is_code(distribution: Distribution) -> bool:
    """Whether it is one over unit vectors or bits.

    Example:
        >>> (
        ...     is_code(Independent(Bernoulli(torch.full((3,), 0.5)), 1)),
        ...     is_code(torch.distributions.Normal(0.0, 1.0)),
        ... )
        (True, False)
    """
    return isinstance(_base(distribution), (Bernoulli, OneHotCategorical))


def categories(distribution: Distribution) -> int:
    """How many entries of an event are one variable: C of unit vectors, and 1 of anything else.

    Example:
        >>> categories(Independent(OneHotCategorical(torch.ones(5, 3, 4)), 1))
        4
    """
    base = _base(distribution)
    return int(base.event_shape[0]) if isinstance(base, OneHotCategorical) else 1


def _base(distribution: Distribution) -> Distribution:
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution
