"""A prior of affine couplings: the change of variables, what it can fit, and how it starts."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.roles import Context, Prior
from tests.contracts import PriorContract, moved
from tests.quadrature import real_line

FLOWS = [lb.priors.RealNVP, lb.priors.NeuralSpline]


class TestRealNVP(PriorContract):
    make = staticmethod(partial(lb.priors.RealNVP, layers=3, hidden=(16,)))
    tolerance = 1e-3

    def quadrature(self, pz: Distribution) -> tuple[Tensor, Tensor]:
        return real_line(pz, 401)


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("z_shape", [(), (1,), (3,), (2, 2)])
def test_it_starts_as_the_standard_normal(flow: type[Prior], z_shape: tuple[int, ...]) -> None:
    z = 2 * torch.randn(7, 5, *z_shape)
    known = lb.priors.StandardNormal(z_shape)(Context())
    assert torch.allclose(flow(z_shape)(Context()).log_prob(z), known.log_prob(z), atol=1e-4)


@pytest.mark.parametrize("flow", FLOWS)
def test_the_density_is_that_of_the_change_of_variables(flow: type[Prior]) -> None:
    """log N(eps) - log |det dz/deps|, with the Jacobian by automatic differentiation of the
    draw.
    """
    pz = moved(flow((3,)).double())(Context())
    eps = torch.randn(6, 3).double()
    for each in eps:
        z, log_det = pz.bijection.generate(each)
        jacobian = torch.autograd.functional.jacobian(
            lambda noise: pz.bijection.generate(noise)[0], each
        )
        assert torch.allclose(log_det, torch.linalg.slogdet(jacobian)[1], rtol=1e-8)
        assert (
            jacobian - torch.eye(3)
        ).abs().max() > 0.05  # moved from the identity, whose determinant hides much
        expected = pz.base.log_prob(each) - torch.linalg.slogdet(jacobian)[1]
        assert torch.allclose(pz.log_prob(z), expected, rtol=1e-8)


def ring(n: int) -> Tensor:
    """A noisy circle: far from any normal."""
    angle = 2 * math.pi * torch.rand(n)
    return torch.stack([angle.cos(), angle.sin()], -1) + 0.1 * torch.randn(n, 2)


@pytest.mark.parametrize("flow", FLOWS)
def test_it_fits_what_is_not_normal_better_than_a_normal_does(flow: type[Prior]) -> None:
    """On fresh draws, paired, by more than four standard errors; and draws from it lie where the
    data do.
    """
    part = flow((2,), layers=4, hidden=(32,))
    adam = torch.optim.Adam(part.parameters(), lr=1e-2)
    for _ in range(100):
        loss = -part(Context()).log_prob(ring(128)).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    z = ring(4000)
    normal = torch.distributions.MultivariateNormal(
        z.mean(0), torch.cov(z.T)
    )  # the best normal, of these very data
    pz = part(Context())
    gain = pz.log_prob(z).detach() - normal.log_prob(z)
    assert gain.mean() > 4 * gain.std() / math.sqrt(len(gain))
    assert gain.mean() > 0.3
    near, nearly = (
        ((draws.norm(dim=1) - 1).abs() < 0.3).float()
        for draws in (pz.sample((4000,)), normal.sample((4000,)))
    )
    assert near.mean() > nearly.mean() + 0.1


@pytest.mark.parametrize("flow", FLOWS)
def test_draws_are_repeated_by_the_seed_and_carry_gradients(flow: type[Prior]) -> None:
    part = moved(flow((3,)))
    model = lb.VAE(
        part, lb.posteriors.DiagonalNormal((4,), (3,)), lb.likelihoods.Normal((3,), (4,))
    )
    assert torch.equal(model.sample(5, seed=1), model.sample(5, seed=1))
    part(Context()).rsample((9,)).square().sum().backward()
    assert all(p.grad is not None for p in part.parameters())


def test_what_is_no_flow_is_refused() -> None:
    with pytest.raises(ValueError, match="^layers is 0"):
        lb.priors.RealNVP((2,), layers=0)
    with pytest.raises(ValueError, match="^hidden holds 0"):
        lb.priors.RealNVP((2,), hidden=(8, 0))
    with pytest.raises(ValueError, match="^bins is 1: at least 2"):
        lb.priors.NeuralSpline((2,), bins=1)


@pytest.mark.parametrize("flow", FLOWS)
def test_half_precision_stays_inside_the_networks(flow: type[Prior]) -> None:
    part, z = moved(flow((3,))), torch.randn(7, 3)
    with torch.autocast("cpu", torch.bfloat16):
        log_p = part(Context()).log_prob(z)
    assert log_p.dtype == torch.float32
    assert torch.allclose(log_p, part(Context()).log_prob(z))
