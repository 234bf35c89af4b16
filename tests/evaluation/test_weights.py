"""What weights say: the values of an independent implementation, distributions whose tail is known,
and exact identities.
"""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import NormalDist

import pytest
import torch
from torch import Tensor

from lowerbound.evaluation import bound, effective_samples, pareto_k, remaining_bias
from tests.test_exact import ppca


def quantiles(draws: int) -> Tensor:
    return torch.tensor(
        [NormalDist().inv_cdf((i + 0.5) / draws) for i in range(draws)], dtype=torch.float64
    )


@pytest.mark.parametrize(
    ("draws", "scale", "k"),
    [
        (30, 1.0, 0.38342730791896495),
        (100, 0.5, 0.2214301910678552),
        (100, 3.0, 0.9651885908460248),
        (1000, 1.0, 0.2904924281456561),
        (1000, 2.0, 0.664867118063116),
    ],
)
def test_pareto_k_is_that_of_arviz(draws: int, scale: float, k: float) -> None:
    """array_stats.psislw of arviz-stats 0.8.0 on minus these log-weights."""
    assert pareto_k(scale * quantiles(draws)[:, None]).item() == pytest.approx(k, rel=1e-9)


@pytest.mark.parametrize("k", [0.1, 0.3, 0.5, 0.7, 1.0])
def test_pareto_k_is_found_where_it_is_known(k: float) -> None:
    """Generalised Pareto weights of shape k. The estimate is drawn to 0.5 by ten of the 222
    observations, and no more.
    """
    u = torch.rand(5000, 400, dtype=torch.float64)
    found = pareto_k((((1 - u) ** -k - 1) / k).log())
    pulled = (212 * k + 5) / 222
    assert (
        abs(found.mean() - pulled) < 4 * found.std() / math.sqrt(400) + 0.02
    )  # 0.02: what the fit itself is biased by


def test_equal_weights_have_no_tail_and_are_all_effective() -> None:
    log_w = torch.full((100, 2), -87.0)
    log_w[:, 1] += 1e-6 * torch.rand(100)  # equal up to rounding
    assert pareto_k(log_w).tolist() == [-math.inf, -math.inf]
    assert torch.allclose(effective_samples(log_w), torch.tensor(100.0))


def test_one_weight_beside_nothing_is_one_effective_sample_of_heavy_tail() -> None:
    log_w = torch.linspace(-5000.0, 0.0, 100)[:, None]
    assert effective_samples(log_w).item() == pytest.approx(1)
    assert pareto_k(log_w).item() > 0.7


def test_too_few_draws_have_no_shape() -> None:
    assert pareto_k(torch.randn(24, 3)).isnan().all()
    assert pareto_k(torch.randn(25, 3)).isfinite().all()


def test_weights_are_known_up_to_a_constant() -> None:
    log_w = torch.randn(200, 5, dtype=torch.float64)
    for function in (pareto_k, effective_samples):
        assert torch.allclose(function(log_w), function(log_w - 1000.0))


def test_the_bound_of_all_draws_is_the_log_mean_and_that_of_one_the_mean_log() -> None:
    log_w = torch.randn(60, 5, dtype=torch.float64)
    assert torch.allclose(bound(log_w, 1), log_w.mean(0))
    assert torch.allclose(bound(log_w, 60), torch.logsumexp(log_w, 0) - math.log(60))
    by_hand = torch.stack(
        [torch.logsumexp(log_w[i : i + 20], 0) - math.log(20) for i in (0, 20, 40)]
    ).mean(0)
    assert torch.allclose(bound(log_w, 20), by_hand)


def test_draws_that_fill_no_group_are_left_out() -> None:
    log_w = torch.randn(25, 5)
    assert torch.equal(bound(log_w, 10), bound(log_w[:20], 10))


@pytest.mark.parametrize("size", [0, 26])
def test_refuses_groups_that_cannot_be_made(size: int) -> None:
    with pytest.raises(ValueError, match=f"size is {size}"):
        bound(torch.randn(25, 5), size)


@pytest.mark.parametrize("a", [0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("sizes", [(1, 10, 100), (10, 100, 500), (100, 1000, 5000)])
def test_a_gap_that_falls_as_a_power_of_k_is_extrapolated_exactly(
    a: float, sizes: tuple[int, int, int]
) -> None:
    gap = [3.0 / k**a for k in sizes]
    found = remaining_bias(
        (gap[0] - gap[1], gap[1] - gap[2]), (sizes[1] / sizes[0], sizes[2] / sizes[1])
    )
    assert found == pytest.approx(gap[2], rel=1e-6)


def test_what_is_left_is_at_most_at_the_rate_one_over_k_and_never_negative() -> None:
    assert remaining_bias((1.0, 0.001), (10, 10)) == pytest.approx(
        0.001 / 9
    )  # faster than 1/K: noise, or nothing left
    assert remaining_bias((math.inf, 0.9), (10, 10)) == pytest.approx(0.1)
    assert remaining_bias((-0.1, 0.9), (10, 10)) == pytest.approx(0.1)
    assert remaining_bias((1.0, -0.1), (10, 10)) == 0.0
    assert remaining_bias((1.0, 1.5), (10, 10)) == math.inf  # no limit in sight


def test_the_bias_of_the_bound_is_found_where_it_is_known() -> None:
    """A linear VAE with an inflated posterior: what the curve at K = 1, 3, 9 lacks is its distance
    from log p(x).
    """
    model, x, exact = ppca(inflation=1.5)
    with torch.no_grad():
        log_w = torch.cat([model(x, samples=900).log_w for _ in range(4)])
    bounds = [bound(log_w, k) for k in (3, 9, 27)]
    found = remaining_bias(tuple(float((b - a).mean()) for a, b in pairwise(bounds)), (3, 3))
    assert found == pytest.approx(float((exact - bounds[-1]).mean()), rel=0.25)
