"""Maps for flows: couplings, whose inverse is as cheap as they are; autoregressive maps, whose
inverse is slow; planar maps, which have none in closed form.

Networks, masks and splines are zuko's, an extra that is imported where a flow of its is made. Maps
work in the precision of their argument, under autocast too: what they say is summed into a
log-density.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints
from torch.nn.functional import softplus

GATE = 2.0  # of an autoregressive step at the start: sigmoid(2) = 88 % of what comes in is kept
# the smallest derivative of a coupling or a gate in any entry: inverses and log |det| stay finite
SLOPE = 1e-3
TINY = 1e-12  # of |w|^2, so that a planar map without a direction is none, and not 0/0


def couplings(n: int, layers: int, hidden: Sequence[int], bins: int | None = None) -> nn.Module:
    """Couplings of n numbers that transform every second of them, by turns: affine, or by splines
    with so many bins.

    They start as the identity. Its forward gives the map z -> eps.

    Raises:
        ImportError: zuko is not installed.
        ValueError: no layer, a hidden layer without units, or fewer than two bins.
    """
    check_sizes(layers, hidden)
    if bins is not None and bins < 2:
        raise ValueError(f"bins is {bins}: at least 2 are needed")
    from lowerbound.distributions import _zuko as zuko

    if bins is None:
        form: dict[str, Any] = {
            "univariate": partial(zuko.transforms.MonotonicAffineTransform, slope=SLOPE)
        }
    else:
        spline = partial(zuko.transforms.MonotonicRQSTransform, slope=SLOPE)
        form = {"univariate": spline, "shapes": [(bins,), (bins,), (bins - 1,)]}
    # one number leaves nothing for a network to see
    of = {} if n == 1 else {"hidden_features": tuple(hidden)}
    made: nn.Module = zuko.flows.RealNVP(n, transforms=layers, **form, **of).transform
    for each in made.transforms:  # type: ignore[union-attr]  # a list of modules
        last = each.parameters() if n == 1 else each.hyper[-1].parameters()
        for parameter in last:
            nn.init.zeros_(parameter)
    return made


def autoregressive(n: int, context: int, layers: int, hidden: Sequence[int]) -> nn.Module:
    """Gated autoregressive steps on n numbers, in turns from the first to the last and back, given
    a context.

    Its forward takes the context and gives the map eps -> z.

    Raises:
        ImportError: zuko is not installed.
        ValueError: no layer, no context, or a hidden layer without units.
    """
    check_sizes(layers, hidden)
    if context < 1:
        raise ValueError(f"context_size is {context}: the steps learn of x by at least 1 number")
    from lowerbound.distributions import _zuko as zuko

    made: nn.Module = zuko.flows.MAF(
        n, context, transforms=layers, univariate=Gated, hidden_features=tuple(hidden)
    ).transform
    return made


def check_sizes(layers: int, hidden: Sequence[int]) -> None:
    """Refuse what is no flow.

    Raises:
        ValueError: no layer, or a hidden layer without units.
    """
    for name, size in chain([("layers", layers)], (("hidden", size) for size in hidden)):
        if size < 1:
            raise ValueError(
                f"{name} holds {size}: at least 1 is needed"
                if name == "hidden"
                else f"layers is {size}"
            )


class Gated(Transform):
    """y = g x + (1 - g) m with g = sigmoid(s + 2), raised to 0.001 where it is all but closed,
    entry by entry.

    Args:
        m: what a closed gate lets through.
        s: how far the gate is open.
    """

    domain = constraints.real
    codomain = constraints.real
    bijective = True

    def __init__(self, m: Tensor, s: Tensor) -> None:
        super().__init__()
        self.gate = SLOPE + (1 - SLOPE) * torch.sigmoid(s + GATE)
        self.shift = (1 - self.gate) * m

    def _call(self, x: Tensor) -> Tensor:
        return self.gate * x + self.shift

    def _inverse(self, y: Tensor) -> Tensor:
        return (y - self.shift) / self.gate

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Y and log |dy/dx|, as zuko's transforms give it."""
        return self._call(x), self.gate.log().expand(x.shape)


class Normalising:
    """A flow by its map from z to eps.

    Args:
        transform: z -> eps.
    """

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def generate(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Z and log |det dz/deps|."""
        with _in_full(eps):
            z = self.transform.inv(eps)
            return z, -self.transform.call_and_ladj(z)[1]

    def invert(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Eps and log |det dz/deps|."""
        with _in_full(z):
            eps, log_det = self.transform.call_and_ladj(z)
        return eps, -log_det


class Generating:
    """A flow by its map from eps to z.

    Args:
        transform: eps -> z.
    """

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def generate(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Z and log |det dz/deps|."""
        with _in_full(eps):
            z, log_det = self.transform.call_and_ladj(eps)
        return z, log_det

    def invert(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Eps and log |det dz/deps|."""
        with _in_full(z):
            eps = self.transform.inv(z)
            return eps, self.transform.call_and_ladj(eps)[1]


class Planar:
    """z -> z + u tanh(w'z + b), T of them one after another, each one-to-one because w'u > -1 is
    made to hold.

    Args:
        u: (T, ..., n), free; what is used is u moved along w until w'u = (1 - s) (softplus(w'u +
            log(e - 1)) - 1), with s the smallest derivative.
        w: (T, ..., n).
        b: (T, ...).
    """

    def __init__(self, u: Tensor, w: Tensor, b: Tensor) -> None:
        along = (w * u).sum(-1)
        self.along = (1 - SLOPE) * (
            softplus(along + math.log(math.e - 1)) - 1
        )  # above SLOPE - 1, where float32 would reach -1
        self.u = u + ((self.along - along) / w.square().sum(-1).clamp(min=TINY))[..., None] * w
        self.w, self.b = w, b

    def generate(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Z and log |det dz/deps|."""
        z, log_det = eps, torch.zeros_like(eps[..., 0])
        for u, w, b, along in zip(self.u, self.w, self.b, self.along, strict=True):
            bent = torch.tanh((w * z).sum(-1) + b)
            z = z + u * bent[..., None]
            log_det = log_det + torch.log1p((1 - bent.square()) * along)
        return z, log_det

    def invert(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """None is known."""
        raise NotImplementedError(
            "a planar flow knows log q(z|x) at its own draws alone, since its inverse has no "
            "formula"
        )


def _in_full(value: Tensor) -> torch.autocast:
    """No half precision within."""
    return torch.autocast(value.device.type, enabled=False)
