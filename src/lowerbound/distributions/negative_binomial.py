"""A negative binomial by its mean mu and its dispersion alpha, the reciprocal of the shape r of
torch's total_count.

    p(x) = Gamma(x + r) / (Gamma(r) x!) (r / (r + mu))^r (mu / (r + mu))^x,    r = 1 / alpha,   x =
    0, 1, 2, ... E[x] = mu,    Var[x] = mu + alpha mu^2

It is a Poisson whose rate is gamma distributed with mean mu and variance alpha mu^2, and a Poisson
at alpha = 0. On the way there ``torch.distributions.NegativeBinomial`` loses everything to
cancellation: at r = 10^6 and x = 3, log Gamma(x + r) and log Gamma(r) are 1.3 * 10^7, which float32
holds to 1 nat. Here only logarithms enter, none of which is large:

    log p(x) = S(x, r) - log x! + x log mu - (x + r) log(1 + mu / r)
    S(x, r) = log Gamma(x + r) - log Gamma(r) - x log r = sum_{i < x} log(1 + i / r)
            = (x + r - 1/2) log(1 + x / r) - x + c(x + r) - c(r),    c(r) = 1/(12 r) - 1/(360 r^3) +
            1/(1260 r^5) - ...

where Stirling's series is taken from r = 20 on, with an error below 10^-12, and the gamma functions
themselves below. It is computed in float64, since the terms of counts in the thousands are of 10^4
nats, of which float32 holds thousandths.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint
from torch.nn.functional import softplus

# log alpha: 1 + alpha x is 1 in float64 for any count that float64 holds, and exp(60) is finite in
# float32
POISSON = -60.0
LARGE = 20.0  # r from which on Stirling's series is used


class NegativeBinomial(Distribution):
    """Independent counts; the parameters broadcast. log alpha is taken to lie in [-60, 60], and -60
    is the Poisson.

    Args:
        log_mean: log mu, (...).
        log_dispersion: log alpha, (...).

    Example:
        >>> px = NegativeBinomial(torch.tensor(3.0).log(), torch.tensor(0.5).log())
        >>> px.mean, px.variance  # 3 + 0.5 * 9
        (tensor(3.), tensor(7.5000))
        >>> px.log_prob(torch.arange(100.0)).exp().sum()
        tensor(1.)
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    support = constraints.nonnegative_integer
    has_rsample = False

    def __init__(self, log_mean: Tensor, log_dispersion: Tensor) -> None:
        self.log_mean, self.log_dispersion = torch.broadcast_tensors(
            log_mean, log_dispersion.clamp(POISSON, -POISSON)
        )
        super().__init__(batch_shape=self.log_mean.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        mean: Tensor = self.log_mean.exp()
        return mean

    @property
    def variance(self) -> Tensor:
        variance: Tensor = self.mean + (2 * self.log_mean + self.log_dispersion).exp()
        return variance

    def log_prob(self, value: Tensor) -> Tensor:
        wide = torch.float32 if value.device.type == "mps" else torch.float64
        x, log_mean, log_alpha = (
            value.to(wide),
            self.log_mean.to(wide),
            self.log_dispersion.to(wide),
        )
        r = (-log_alpha).exp()
        # softplus as torch has it becomes linear at 20, which is off by 10^-9; at 40 it is exact in
        # float64
        log_p: Tensor = _rising(x, r) - torch.lgamma(x + 1) + x * log_mean
        log_p = log_p - (x + r) * softplus(log_mean + log_alpha, threshold=40)
        return log_p.to(self.log_mean.dtype)

    @torch.no_grad()
    # torch says Size alone
    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        shape = torch.Size(sample_shape) + self.batch_shape
        r = (-self.log_dispersion).exp().expand(shape)
        rate = self.mean * torch._standard_gamma(r) / r
        return torch.poisson(rate)


def _rising(x: Tensor, r: Tensor) -> Tensor:
    """S(x, r) = sum_{i < x} log(1 + i / r), in which each formula is kept where the other holds
    from its own infinities.
    """
    large, small = r.clamp(min=LARGE), r.clamp(max=LARGE)
    series = (
        (x + large - 0.5) * torch.log1p(x / large) - x + _correction(x + large) - _correction(large)
    )
    exact = torch.lgamma(x + small) - torch.lgamma(small) - x * small.log()
    return torch.where(r >= LARGE, series, exact)


def _correction(r: Tensor) -> Tensor:
    """c(r), what Stirling's formula for log Gamma(r) leaves, by three terms: the next is 1/(1680
    r^7), 5e-13 at r = 20.
    """
    return (1 / 12 - (1 / 360 - 1 / 1260 / r**2) / r**2) / r
