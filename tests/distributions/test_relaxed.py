"""Codes and their relaxations: the densities, and the limits in which one becomes the other."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Bernoulli, Distribution, Independent, Normal, OneHotCategorical

from lowerbound.distributions import OneHot, categories, is_code, nearest, relaxed, straight_through
from tests.contracts import within

LOGITS = torch.tensor([[0.5, -1.0, 0.2], [2.0, 0.0, -3.0]])
CODES = [Independent(OneHot(logits=LOGITS), 1), Independent(Bernoulli(logits=LOGITS), 2)]


@pytest.mark.parametrize("q", CODES, ids=["unit vectors", "bits"])
@pytest.mark.parametrize("temperature", [0.1, 2 / 3, 3.0])
def test_the_nearest_code_of_a_relaxed_draw_is_a_draw_at_any_temperature(
    q: Distribution, temperature: float
) -> None:
    torch.manual_seed(0)
    soft = relaxed(q, temperature).rsample((20_000,))
    hard = nearest(q, soft)
    assert soft.shape == (20_000, 2, 3)
    assert bool((q.base_dist.support.check(hard)).all())
    for i in range(2):
        for d in range(3):
            assert within(hard[:, i, d], q.mean[i, d])


def test_the_density_of_a_relaxed_bit_is_that_of_two_categories_and_normalised() -> None:
    z = torch.linspace(0, 1, 200_001, dtype=torch.float64)[1:-1]
    bit = relaxed(Bernoulli(logits=torch.tensor(0.7).double()), 2 / 3).log_prob(z)
    pair = relaxed(OneHot(logits=torch.tensor([0.7, 0.0]).double()), 2 / 3).log_prob(
        torch.stack([z, 1 - z], -1)
    )
    assert torch.allclose(bit, pair, atol=1e-9)
    assert bit.exp().mean().item() == pytest.approx(
        1, abs=2e-3
    )  # infinite at both ends, so that the rule is coarse there


@pytest.mark.parametrize("q", CODES, ids=["unit vectors", "bits"])
@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_at_a_low_temperature_draws_are_codes_and_densities_stay_finite(
    q: Distribution, temperature: float
) -> None:
    torch.manual_seed(0)
    z = relaxed(q, temperature).rsample((1000,))
    assert (z - nearest(q, z)).abs().mean() < temperature
    assert bool(relaxed(q, temperature).log_prob(z).isfinite().all())


@pytest.mark.parametrize(
    "make", [lambda p: OneHot(logits=p), lambda p: Bernoulli(logits=p)], ids=["vectors", "bits"]
)
def test_straight_through_draws_are_codes_with_the_gradient_of_relaxed_ones(make: object) -> None:
    logits = LOGITS[0].clone().requires_grad_()
    weight = torch.tensor([1.0, -2.0, 0.5])
    gradients = []
    for draw in (
        lambda q, shape: straight_through(q, 0.5, shape),
        lambda q, shape: relaxed(q, 0.5).rsample(shape),
    ):
        torch.manual_seed(3)
        z = draw(make(logits), torch.Size((50,)))
        gradients.append(torch.autograd.grad((z * weight).sum(), logits)[0])
    assert torch.allclose(*gradients, rtol=1e-4)
    torch.manual_seed(3)
    hard = straight_through(make(logits), 0.5, torch.Size((50,)))
    assert bool(((hard == 0) | (hard == 1)).all())


def test_the_log_probability_of_a_code_is_torchs_with_a_gradient_in_z() -> None:
    z = torch.eye(3).requires_grad_()
    ours, theirs = (
        OneHot(logits=LOGITS[0]).log_prob(z),
        OneHotCategorical(logits=LOGITS[0]).log_prob(z),
    )
    assert torch.allclose(ours, theirs)
    assert torch.allclose(
        torch.autograd.grad(ours.sum(), z)[0], LOGITS[0].log_softmax(0).expand(3, 3)
    )
    certain = OneHot(logits=torch.tensor([0.0, -torch.inf]))
    assert certain.log_prob(torch.eye(2))[0] == 0
    assert certain.log_prob(torch.eye(2))[1] < -1000


def test_what_is_a_code() -> None:
    assert [is_code(q) for q in (*CODES, Normal(0.0, 1.0))] == [True, True, False]
    assert [categories(q) for q in (*CODES, Normal(0.0, 1.0))] == [3, 1, 1]
    with pytest.raises(ValueError, match="Normal has no relaxation"):
        relaxed(Normal(0.0, 1.0), 0.5)
