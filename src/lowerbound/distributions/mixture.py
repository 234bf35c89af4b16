"""p(z) = sum_c pi_c p_c(z), a mixture of C components of one family, over events of any shape.

    log p(z) = logsumexp_c (log pi_c + log p_c(z))
    E[z]     = sum_c pi_c m_c
    Var[z]   = sum_c pi_c (v_c + (m_c - E[z])^2)

torch has a ``MixtureSameFamily``. This one differs in two ways: its support is that of the
components, so that it can be compared with other supports, and its memory is bounded. N values
against C components of D entries are N C D differences, 10^10 numbers for 5,000 draws of 100
examples, 500 components and 40 entries. They are worked on in pieces, and for independent normals
the square is multiplied out,

    -2 log p_c(z) = sum_d z_d^2 / v_cd - 2 sum_d z_d m_cd / v_cd + sum_d (m_cd^2 / v_cd + log v_cd +
    log 2 pi)

which is a matrix product, N C numbers, and many times faster. The three sums cancel: in float64, in
which they are done, that costs about 1e-16 (m / s)^2 nats an entry.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal
from torch.distributions.constraints import Constraint

# numbers of one piece: 32 MiB in float64, several times over where gradients are kept
MAX_COMPONENT_VALUES = 2**22
# the same on a CPU where none are: 1 MiB, which is read again and again until the sum is there
CACHED = 2**17


class Mixture(Distribution):
    """A mixture without a batch; a draw has no gradient, since the choice of a component has none.

    Args:
        logits: (C,), log-weights up to a constant.
        components: batch (C,), event Z.

    Example:
        >>> pz = Mixture(
        ...     torch.zeros(2), Normal(torch.tensor([-1.0, 1.0]), torch.tensor([1.0, 1.0]))
        ... )
        >>> pz.mean, pz.variance, pz.log_prob(torch.zeros(7, 5)).shape
        (tensor(0.), tensor(2.), torch.Size([7, 5]))
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    has_rsample = False

    def __init__(self, logits: Tensor, components: Distribution) -> None:
        self.log_weights = torch.log_softmax(logits, 0)
        self.components = components
        super().__init__(event_shape=components.event_shape, validate_args=False)

    @property
    def support(self) -> Constraint | None:
        return self.components.support

    @property
    def mean(self) -> Tensor:
        return self._average(self.components.mean)

    @property
    def variance(self) -> Tensor:
        # about the mean: the difference of two squares can round below zero
        return self._average(self.components.variance + (self.components.mean - self.mean) ** 2)

    def _average(self, values: Tensor) -> Tensor:
        """sum_c pi_c v_c: (C, *Z) -> (*Z)."""
        average: Tensor = torch.tensordot(self.log_weights.exp(), values, 1)
        return average

    def log_prob(self, value: Tensor) -> Tensor:
        leading = value.shape[: value.ndim - len(self.event_shape)]
        flat = value.reshape(-1, *self.event_shape)
        squares = _as_quadratic(self.components)
        held = len(self.log_weights) * (1 if squares else self.event_shape.numel())
        values = (
            CACHED
            if value.device.type == "cpu" and not torch.is_grad_enabled()
            else MAX_COMPONENT_VALUES
        )
        pieces = flat.split(max(1, values // held))
        each = (squares(piece) if squares else self._each(piece) for piece in pieces)
        return (
            torch.cat([torch.logsumexp(self.log_weights + log_p, 1) for log_p in each])
            .reshape(leading)
            .to(value.dtype)
        )

    def _each(self, value: Tensor) -> Tensor:
        """Log-density of every component, (N, *Z) -> (N, C)."""
        log_p: Tensor = self.components.log_prob(value[:, None])
        return log_p

    @torch.no_grad()
    # torch says Size alone
    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        shape = torch.Size(sample_shape)
        chosen = Categorical(logits=self.log_weights, validate_args=False).sample(
            torch.Size((shape.numel(),))
        )
        size = max(1, MAX_COMPONENT_VALUES // (len(self.log_weights) * self.event_shape.numel()))
        draws = []
        for part in chosen.split(size):
            every = self.components.sample(torch.Size((len(part),)))  # (n, C, *Z)
            draws.append(every[torch.arange(len(part), device=part.device), part])
        return torch.cat(draws).reshape(shape + self.event_shape)


class _Quadratic:
    """Log-densities of C independent normals at N values as a matrix product.

    Args:
        loc: (C, D).
        scale: (C, D).
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        loc, variance = loc.double(), scale.double() ** 2
        self.weights = torch.cat([-0.5 / variance, loc / variance], 1).T  # of z^2 and z
        self.constant = -0.5 * (loc**2 / variance + variance.log() + math.log(2 * math.pi)).sum(1)

    def __call__(self, value: Tensor) -> Tensor:
        z = value.reshape(len(value), -1).double()
        return torch.addmm(self.constant, torch.cat([z**2, z], 1), self.weights)


def _as_quadratic(components: Distribution) -> _Quadratic | None:
    """The components multiplied out; None where they are no independent normals, or on a device
    without float64.
    """
    base = components.base_dist if isinstance(components, Independent) else components
    if not isinstance(base, Normal) or base.mean.device.type == "mps":
        return None
    shape = components.batch_shape + components.event_shape
    loc, scale = base.loc.expand(shape), base.scale.expand(shape)
    return _Quadratic(loc.reshape(len(loc), -1), scale.reshape(len(loc), -1))
