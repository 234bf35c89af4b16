"""What importance weights say about the estimate that is made of them.

    effective samples   (sum_k w_k)^2 / sum_k w_k^2, between 1 and K
    Pareto k            the shape of the generalised Pareto distribution that fits the largest
                        weights: moments of the weights of order 1/k and above do not exist, so
                        above 0.5 they have no variance, and above 0.7 no number of draws that
                        anybody can afford makes their mean reliable
    the bound L_j       the mean of the j-sample bound over the K / j disjoint groups of j draws
    what it lacks       log p(x) - L_K is about c / K^a, a = 1 where the weights have a variance and
                        less where they do not; two rises of the curve in a row give c and a

(Vehtari, Simpson, Gelman, Yao and Gabry 2024, arXiv 1507.02646; the fit is that of Zhang and
Stephens 2009.)

All take log-weights of exchangeable draws, (K, B), up to a constant of each example.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Pareto k beyond which the mean of the weights is not to be trusted (Vehtari et al., section 3.2.4)
TRUSTED = 0.7
# largest weights that are equal within this share of themselves differ by rounding, and have no
# tail
FLAT = 1e-4
# draws below which the tail holds fewer than 5 weights, and no shape can be fitted
MIN_TAIL_DRAWS = 25


def effective_samples(log_w: Tensor) -> Tensor:
    """How many equally weighted draws the weights are worth, (K, B) -> (B,).

    Example:
        >>> import torch
        >>> effective_samples(torch.tensor([[0.0, 0.0], [0.0, -100.0]]))
        tensor([2., 1.])
    """
    return torch.exp(2 * torch.logsumexp(log_w, 0) - torch.logsumexp(2 * log_w, 0))


def bound(log_w: Tensor, size: int) -> Tensor:
    """The ``size``-sample bound, averaged over the disjoint groups of ``size`` draws, (K, B) ->
    (B,).

    Draws that fill no further group are left out, so that E[bound] is that of exactly ``size``
    draws.

    Raises:
        ValueError: a size below 1 or above K.
    """
    draws = len(log_w)
    if not 1 <= size <= draws:
        raise ValueError(f"size is {size}: of {draws} draws, groups of 1 to {draws} can be made")
    groups = draws // size
    grouped = log_w[: groups * size].unflatten(0, (groups, size))
    return (torch.logsumexp(grouped, 1) - math.log(size)).mean(0)


def pareto_k(log_w: Tensor) -> Tensor:
    """The shape k of the tail of the weights, (K, B) -> (B,), in float64 on the CPU.

    The tail is the largest min(K / 5, 3 sqrt(K)) weights. k is nan below 25 draws, and -inf where
    the largest weights are the same up to rounding.

    Example:
        >>> import torch
        >>> u = (torch.arange(20000) + 0.5) / 20000
        >>> log_w = -torch.log(u)[:, None] / torch.tensor(
        ...     [5.0, 1.25]
        ... )  # weights with moments up to order 5, and 1.25
        >>> [round(value, 1) for value in pareto_k(log_w).tolist()]
        [0.2, 0.8]
    """
    draws, examples = log_w.shape
    if draws < MIN_TAIL_DRAWS:
        return torch.full((examples,), math.nan, dtype=torch.float64)
    n = min(draws // 5, int(3 * math.sqrt(draws)))
    largest = log_w.cpu().double().topk(n + 1, 0).values
    weights = torch.exp(largest - largest[:1])
    x = (weights[:-1] - weights[-1:]).flip(0)  # exceedances of the threshold, ascending, (n, B)
    flat = x[-1] < FLAT
    # an exceedance of exactly zero at the quartile (equal weights) would divide by zero
    quartile = x[int(n / 4 + 0.5) - 1].clamp_min(torch.finfo(torch.float64).tiny)
    size = 30 + int(math.sqrt(n))
    i = torch.arange(1, size + 1, dtype=torch.float64)[:, None]
    b = 1 / x[-1].clamp_min(torch.finfo(torch.float64).tiny) + (
        1 - torch.sqrt(size / (i - 0.5))
    ) / (3 * quartile)
    shape = torch.log1p(-b[:, None] * x).mean(1)  # of each candidate b, (size, B)
    profile = n * (torch.log(-b / shape) - shape - 1)
    b = (torch.softmax(profile, 0) * b).sum(0)
    k = torch.log1p(-b * x).mean(0)
    k = (n * k + 10 * 0.5) / (
        n + 10
    )  # ten observations' worth of prior at 0.5, which steadies the fit of short tails
    return torch.where(flat, -math.inf, k)


def remaining_bias(rises: tuple[float, float], factors: tuple[float, float]) -> float:
    """How much further a bound would rise, from its last two rises over K, if the gap goes on
    falling as a power of K.

    Args:
        rises: of the bound, from K_0 to K_1 and from K_1 to K_2, nats.
        factors: K_1 / K_0 and K_2 / K_1.

    Returns:
        c / K_2^a, with a at most 1, the rate where the weights have a variance; 0 where the bound
        no longer rises, and infinity where it rises as fast as before.

    Example:
        >>> def gap(k):
        ...     return 5.0 / k**0.4
        >>> round(remaining_bias((gap(10) - gap(100), gap(100) - gap(500)), (10, 5)) / gap(500), 6)
        1.0
    """
    first, last = rises
    m, n = factors
    if last <= 0:
        return 0.0

    def ratio(a: float) -> float:
        """Last / first of a gap that falls as K^-a; it falls with a."""
        return float((1 - n**-a) / (m**a - 1))

    if first <= 0 or last / first <= ratio(1.0):
        return last / (n - 1)
    low, high = 1e-3, 1.0
    if last / first >= ratio(low):
        return math.inf
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if ratio(middle) > last / first else (low, middle)
    return float(last / (n**low - 1))
