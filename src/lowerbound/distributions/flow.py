"""A normalising flow: the law of z = f(eps) with eps from a normal and f smooth and one-to-one,
over events of any shape.

    log q(z) = log N(eps) - log |det df/deps|,    eps = f^{-1}(z)

At its own latest draw eps is known, and so is the density, as cheap as the draw was. Anywhere else
f has to be inverted, which for one map is as cheap, for another slow, and for a third not possible:
then the density is known at own draws alone.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, constraints
from torch.distributions.constraints import Constraint

from lowerbound.shapes import Shape, numel


class Bijection(Protocol):
    """A smooth one-to-one map of n numbers, at any leading dimensions."""

    def generate(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Z = f(eps), (..., n), and log |det df/deps| there, (...)."""

    def invert(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Eps with f(eps) = z, (..., n), and log |det df/deps| there, (...).

        Raises:
            NotImplementedError: no inverse is known.
        """


class Flow(Distribution):
    """The law of f(eps), eps ~ N(loc, diag(scale^2)).

    Its moments have no formula (:func:`lowerbound.distributions.mean` averages draws). ``log_prob``
    of a value that is the very tensor that ``rsample`` returned last, with gradients, does not
    invert.

    Args:
        bijection: f.
        loc: (..., n), of the noise; its leading dimensions are the batch.
        scale: the same shape.
        event_shape: Z, with n values.
        passes: how many passes through networks the inverse takes: as many as the forward map has,
            or many times more.

    Example:
        >>> class Doubling:
        ...     def generate(self, eps):
        ...         return 2 * eps, torch.full(eps.shape[:-1], 3 * torch.tensor(2.0).log())
        ...
        ...     def invert(self, z):
        ...         return z / 2, self.generate(z)[1]
        >>> qz = Flow(Doubling(), torch.zeros(5, 3), torch.ones(5, 3), (3,))
        >>> z = qz.rsample((7,))
        >>> torch.allclose(qz.log_prob(z), Independent(Normal(torch.zeros(3), 2.0), 1).log_prob(z))
        True
        >>> torch.allclose(qz.log_prob(z), qz.log_prob(z.clone()))
        True
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    has_rsample = True

    def __init__(
        self, bijection: Bijection, loc: Tensor, scale: Tensor, event_shape: Shape, passes: int = 1
    ) -> None:
        self.bijection = bijection
        self.passes = passes
        self.base = Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False)
        self.latest: tuple[Tensor, Tensor] | None = None  # a draw and its log-density
        super().__init__(loc.shape[:-1], torch.Size(event_shape), validate_args=False)

    @property
    def support(self) -> Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        raise NotImplementedError(
            "the mean of a flow has no formula; lowerbound.distributions.mean averages draws"
        )

    @property
    def variance(self) -> Tensor:
        raise NotImplementedError(
            "the variance of a flow has no formula; lowerbound.distributions.stddev has one of "
            "draws"
        )

    # torch says Size alone
    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        eps = self.base.rsample(torch.Size(sample_shape))
        flat, log_det = self.bijection.generate(eps)
        z = flat.reshape(*flat.shape[:-1], *self.event_shape)
        self.latest = z, self.base.log_prob(eps) - log_det
        return z

    @torch.no_grad()
    # torch says Size alone
    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        flat, _ = self.bijection.generate(self.base.sample(torch.Size(sample_shape)))
        return flat.reshape(*flat.shape[:-1], *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log q at a value (..., *Z), nats.

        Raises:
            NotImplementedError: the value is not the latest draw, and f has no known inverse.
        """
        if self.latest is not None and value is self.latest[0]:
            return self.latest[1]
        leading = value.shape[: value.ndim - len(self.event_shape)]
        eps, log_det = self.bijection.invert(value.reshape(*leading, numel(self.event_shape)))
        log_q: Tensor = self.base.log_prob(eps) - log_det
        return log_q
