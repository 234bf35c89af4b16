"""A mixture against torch's own, which holds everything at once."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.distributions import (
    Categorical,
    Independent,
    Laplace,
    MixtureSameFamily,
    Normal,
    constraints,
)

from lowerbound.distributions import FullNormal, Mixture
from tests.contracts import SHAPES, within

C = 6


def pair(z_shape: tuple[int, ...], kind: str = "normal") -> tuple[Mixture, MixtureSameFamily]:
    """The same mixture, here and in torch, in float64."""
    logits, loc = torch.randn(C).double(), 2 * torch.randn(C, *z_shape).double()
    scale = 0.3 + torch.rand(C, *z_shape).double()
    base = Normal(loc, scale) if kind == "normal" else Laplace(loc, scale)
    components = Independent(base, len(z_shape))
    return Mixture(logits, components), MixtureSameFamily(Categorical(logits=logits), components)


@pytest.mark.parametrize("kind", ["normal", "laplace"])
@pytest.mark.parametrize("z_shape", SHAPES)
def test_it_is_torchs_mixture(z_shape: tuple[int, ...], kind: str) -> None:
    ours, torchs = pair(z_shape, kind)
    for leading in ((), (7,), (2, 7, 5)):
        z = 3 * torch.randn((*leading, *z_shape)).double()
        assert ours.log_prob(z).shape == leading
        assert torch.allclose(ours.log_prob(z), torchs.log_prob(z), rtol=1e-12, atol=1e-12)
    assert torch.allclose(ours.mean, torchs.mean)
    assert torch.allclose(ours.stddev, torchs.stddev)
    assert ours.sample((3, 2)).shape == (3, 2, *z_shape)


def test_components_of_full_covariance() -> None:
    tril = torch.linalg.cholesky(torch.eye(6).double() + 0.3)
    components = FullNormal(torch.randn(C, 2, 3).double(), tril.expand(C, 6, 6), (2, 3))
    mixture, z = Mixture(torch.zeros(C).double(), components), torch.randn(7, 5, 2, 3).double()
    by_hand = (
        torch.stack([components.log_prob(z[..., None, :, :])[..., c].exp() for c in range(C)])
        .mean(0)
        .log()
    )
    assert torch.allclose(mixture.log_prob(z), by_hand, rtol=1e-12)


@pytest.mark.parametrize("kind", ["normal", "laplace"])
def test_pieces_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mixture, _ = pair((2, 3), kind)
    z = torch.randn(11, 5, 2, 3).double().requires_grad_()
    whole = mixture.log_prob(z)
    (gradient,) = torch.autograd.grad(whole.sum(), z)
    module = sys.modules["lowerbound.distributions.mixture"]
    for values in (1, 7 * C * 6):
        monkeypatch.setattr(module, "MAX_COMPONENT_VALUES", values)
        monkeypatch.setattr(module, "CACHED", values)
        with torch.no_grad():
            assert torch.allclose(mixture.log_prob(z), whole, rtol=1e-12)
        again = mixture.log_prob(z)
        assert torch.allclose(again, whole, rtol=1e-12)
        assert torch.allclose(torch.autograd.grad(again.sum(), z)[0], gradient, rtol=1e-10)
        assert mixture.sample((20,)).shape == (20, 2, 3)


def test_draws_are_those_of_the_density_that_is_divided_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """E_p[f / p] is the integral of f: a draw from one component, divided by the whole, would give
    another number.
    """
    monkeypatch.setattr(
        sys.modules["lowerbound.distributions.mixture"], "MAX_COMPONENT_VALUES", 1000 * C
    )  # in several pieces
    mixture = Mixture(torch.zeros(C), Normal(torch.linspace(-4.0, 4.0, C), torch.ones(C)))
    z = mixture.sample((20_000,))
    for loc in (-4.0, 0.0, 4.0):
        # the ratio is at most C, so its mean is well behaved
        assert within((Normal(loc, 1.0).log_prob(z) - mixture.log_prob(z)).exp(), 1.0, errors=5)
    assert within(z, mixture.mean)
    assert within((z - mixture.mean) ** 2, mixture.variance)


def test_float32_is_right_where_scales_are_small() -> None:
    """Multiplied out in float32, the squares of a posterior as sharp as this would cancel to
    nothing.
    """
    loc, scale = 5 * torch.randn(C, 40).double(), torch.full((C, 40), 1e-3).double()
    z = loc[0] + 1e-3 * torch.randn(40).double()
    exact = Independent(Normal(loc[0], scale[0]), 1).log_prob(z) - torch.tensor(C).double().log()
    assert torch.allclose(
        Mixture(torch.zeros(C), Independent(Normal(loc, scale), 1)).log_prob(z), exact, rtol=1e-8
    )
    single = Independent(Normal(loc.float(), scale.float()), 1)
    rounded = Independent(Normal(loc[0].float().double(), scale[0].float().double()), 1).log_prob(
        z.float().double()
    )
    single_log_p = Mixture(torch.zeros(C), single).log_prob(z.float())
    assert single_log_p.dtype == torch.float32
    assert abs(single_log_p - rounded + torch.tensor(C).log()) < 1e-3


def test_its_support_is_that_of_its_components() -> None:
    support = pair((2, 3))[0].support
    assert isinstance(support, constraints.independent)
    assert support.base_constraint is constraints.real
