"""The rules that the contracts integrate densities by."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Cauchy, Distribution, Independent, Normal, StudentT

from lowerbound.shapes import Shape
from tests.quadrature import polynomial_tails, real_line, total_probability

LOC, SCALE = torch.tensor([-3.0, 40.0]), torch.tensor([0.02, 5.0])
HEAVY = {
    "2 degrees of freedom": lambda loc, scale: StudentT(2.0, loc, scale),
    "3 degrees of freedom": lambda loc, scale: StudentT(3.0, loc, scale),
    "1.5 degrees of freedom": lambda loc, scale: StudentT(1.5, loc, scale),
    "30 degrees of freedom": lambda loc, scale: StudentT(30.0, loc, scale),
    "Cauchy": Cauchy,
}


@pytest.mark.parametrize("name", HEAVY)
@pytest.mark.parametrize("event", [(), (1,), (2,)])
def test_a_density_with_polynomial_tails_integrates_to_one(name: str, event: Shape) -> None:
    loc, scale = (value[: event[0]] if event else value[1] for value in (LOC, SCALE))
    density = Independent(HEAVY[name](loc, scale), len(event))
    total = total_probability(density.log_prob, polynomial_tails(density), event)
    assert total.item() == pytest.approx(1.0, abs=1e-3)


def test_a_batch_of_them_does_too_and_in_the_type_of_the_density() -> None:
    density = StudentT(2.0, LOC.double().expand(4, 2), SCALE.double())
    x, weights = polynomial_tails(density)
    assert x.shape == weights.shape == (64, 4, 2)
    total: Tensor = (density.log_prob(x).exp() * weights).sum(0)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-8)


def test_a_rule_for_light_tails_leaves_out_what_is_far_away() -> None:
    """Ten standard deviations hold a normal, and 0.9996 of a Student-t with three degrees of
    freedom: the difference is what the new rule is for.
    """
    light, heavy = Normal(0.0, 1.0), StudentT(3.0, torch.zeros(()), torch.ones(()))
    assert _total(light, real_line(light)) == pytest.approx(1.0, abs=1e-6)
    missing = 1 - _total(heavy, real_line(heavy))
    assert missing > 3e-4
    assert abs(1 - _total(heavy, polynomial_tails(heavy))) < missing / 100


def test_moments_that_exist_are_found() -> None:
    """The variance of five degrees of freedom, 5/3 of the squared scale."""
    density = StudentT(5.0, torch.tensor(2.0).double(), torch.tensor(3.0).double())
    x, weights = polynomial_tails(density)
    mass = density.log_prob(x).exp() * weights
    assert (mass * x).sum().item() == pytest.approx(2.0)
    assert (mass * (x - 2) ** 2).sum().item() == pytest.approx(15.0, rel=1e-6)
    assert math.isfinite(x.abs().max().item())


def _total(density: Distribution, rule: tuple[Tensor, Tensor]) -> float:
    return total_probability(density.log_prob, rule, ()).item()
