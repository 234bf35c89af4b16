"""Every closed-form KL equals its Monte Carlo estimate and is never negative."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Independent, Normal

from lowerbound.distributions import FullNormal, as_multivariate
from lowerbound.kl import closed_form_kl, kl_per_dimension
from tests.contracts import within

means = st.floats(-3, 3)
scales = st.floats(0.1, 3)


@settings(max_examples=50, deadline=None)
@given(means, scales, means, scales)
def test_the_closed_form_agrees_with_monte_carlo_and_is_never_negative(
    m1: float, s1: float, m2: float, s2: float
) -> None:
    q = Independent(Normal(torch.tensor([m1, 0.0]), torch.tensor([s1, 1.0])), 1)
    p = Independent(Normal(torch.tensor([m2, 0.0]), torch.tensor([s2, 1.0])), 1)
    kl = closed_form_kl(q, p)
    assert kl is not None
    assert kl.item() >= -1e-6
    torch.manual_seed(0)
    z = q.sample((20000,))
    # 5 standard errors: 50 examples are tried at each run, and the weights can be skewed
    assert within(q.log_prob(z) - p.log_prob(z), kl, errors=5)


def test_of_a_distribution_to_itself_is_zero_in_16_dimensions() -> None:
    q = Independent(Normal(torch.randn(16), torch.rand(16) + 0.1), 1)
    assert closed_form_kl(q, q).abs().item() < 1e-6


def test_the_notebooks_example() -> None:
    """q = N(1, 2), p = N(0, 1): 1.3069 nats."""
    kl = closed_form_kl(Normal(torch.tensor(1.0), torch.tensor(2.0)), Normal(torch.tensor(0.0), torch.tensor(1.0)))
    assert round(kl.item(), 4) == 1.3069


def covariance(n: int) -> torch.Tensor:
    a = torch.randn(n, n)
    return a @ a.T + 0.1 * torch.eye(n)


def test_full_and_diagonal_normals_meet_in_every_combination() -> None:
    full = FullNormal(torch.randn(5, 2, 2), torch.linalg.cholesky(covariance(4)).expand(5, 4, 4), (2, 2))
    other = FullNormal(torch.randn(2, 2), torch.linalg.cholesky(covariance(4)), (2, 2))
    diagonal = Independent(Normal(torch.randn(2, 2), torch.rand(2, 2) + 0.2), 2)
    for q, p in ((full, other), (full, diagonal), (diagonal, other), (diagonal, diagonal)):
        kl = closed_form_kl(q, p)
        z = q.sample((40000,))
        difference = (q.log_prob(z) - p.log_prob(z)).reshape(40000, -1)
        for b in range(difference.shape[1]):
            assert kl.flatten()[b] >= 0
            assert within(difference[:, b], kl.flatten()[b])


def test_the_parts_of_a_factorised_kl_sum_to_it() -> None:
    q = Independent(Normal(torch.randn(5, 2, 3), torch.rand(5, 2, 3) + 0.1), 2)
    p = Independent(Normal(torch.zeros(2, 3), torch.ones(2, 3)), 2)
    parts = kl_per_dimension(q, p)
    assert parts.shape == (5, 2, 3)
    assert torch.allclose(parts.sum((1, 2)), closed_form_kl(q, p))
    assert kl_per_dimension(as_multivariate(q), p) is None
