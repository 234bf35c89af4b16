"""The planar posterior: a density along its own draws, and refusal everywhere else."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

import lowerbound as lb
from lowerbound.distributions import Flow
from lowerbound.distributions.bijections import Planar as PlanarMaps
from lowerbound.evaluation import annealed, information, sandwich
from lowerbound.evaluation.gaps import gaps
from lowerbound.roles import Context
from tests.contracts import PosteriorContract, moved

Planar = partial(lb.posteriors.Planar, layers=3)


class TestPlanar(PosteriorContract):
    make = staticmethod(Planar)


@pytest.mark.parametrize("z_shape", [(), (3,), (2, 2)])
def test_the_density_is_that_of_the_change_of_variables(z_shape: tuple[int, ...]) -> None:
    """log N(z_0) - log |det dz/dz_0| for each example, the Jacobian by automatic
    differentiation.
    """
    n = math.prod(z_shape)
    u, w, b = (
        torch.randn(3, 5, n).double(),
        torch.randn(3, 5, n).double(),
        torch.randn(3, 5).double(),
    )
    qz = Flow(
        PlanarMaps(u, w, b), torch.randn(5, n).double(), torch.rand(5, n).double() + 0.5, z_shape
    )
    torch.manual_seed(1)
    z = qz.rsample()
    torch.manual_seed(1)
    start = qz.base.rsample()
    for i in range(5):
        alone = PlanarMaps(u[:, i], w[:, i], b[:, i])
        jacobian = torch.autograd.functional.jacobian(
            lambda noise, f=alone: f.generate(noise)[0], start[i]
        )
        log_det = torch.linalg.slogdet(jacobian)[1]
        assert log_det.abs() > 1e-3
        assert torch.allclose(qz.log_prob(z)[i], qz.base.log_prob(start)[i] - log_det, rtol=1e-8)


def test_on_a_line_the_density_along_a_grid_of_noise_integrates_to_one() -> None:
    qz = moved(Planar((4,), (1,)).double())(torch.rand(5, 4).double(), Context())
    eps = qz.base.mean + torch.linspace(-10, 10, 4001).double()[:, None, None] * qz.base.stddev
    z, log_det = qz.bijection.generate(eps)
    assert bool((z.diff(dim=0) > 0).all())  # one-to-one
    density = (qz.base.log_prob(eps) - log_det).exp()
    assert torch.allclose(
        torch.trapezoid(density, z[..., 0], dim=0), torch.ones(5).double(), atol=1e-4
    )


def test_every_map_is_one_to_one_whatever_the_network_says() -> None:
    u, w, b = (
        20 * torch.randn(50, 9, 3).double(),
        5 * torch.randn(50, 9, 3).double(),
        torch.randn(50, 9).double(),
    )
    w[0] = 0
    u[1] = -30 * w[1]  # as far the wrong way as it goes
    maps = PlanarMaps(u, w, b)
    assert bool(((maps.u * maps.w).sum(-1) > -1 - 1e-9).all())
    assert torch.allclose((maps.u * maps.w).sum(-1)[1:], maps.along[1:])
    assert bool(maps.generate(torch.randn(4, 9, 3).double())[1].isfinite().all())


def test_in_float32_the_volume_is_never_nothing() -> None:
    """w'u as far the wrong way as it goes, at the plane itself, where softplus(w'u) - 1 rounds to
    -1.
    """
    u, w = torch.full((1, 1, 3), -5.0).requires_grad_(), torch.full((1, 1, 3), 2.0)
    log_det = PlanarMaps(u, w, torch.zeros(1, 1)).generate(torch.zeros(1, 3))[1]
    assert log_det.item() == pytest.approx(math.log(1e-3), rel=1e-3)
    assert torch.autograd.grad(log_det, u)[0].isfinite().all()


def test_a_map_without_a_push_does_nothing() -> None:
    w, eps = 1e-4 * torch.randn(4, 5, 3), torch.randn(7, 5, 3)
    z, log_det = PlanarMaps(torch.zeros(4, 5, 3), w, torch.randn(4, 5)).generate(eps)
    assert torch.allclose(z, eps, atol=1e-2)
    assert log_det.abs().max() < 1e-5


def model(**settings: object) -> lb.VAE:
    return lb.VAE(
        lb.priors.StandardNormal((2,)), Planar((4,), (2,)), lb.likelihoods.Normal((2,), (4,))
    )


def test_what_evaluates_q_elsewhere_is_refused_in_one_line() -> None:
    x = torch.rand(6, 4)
    with pytest.raises(
        ValueError,
        match=r"^VampPrior evaluates .*, and Planar knows log q\(z\|x\) at its own draws alone; ",
    ):
        lb.VAE(
            lb.priors.VampPrior((2,), (4,), components=3),
            Planar((4,), (2,)),
            lb.likelihoods.Normal((2,), (4,)),
        )
    for tool in (
        lambda: annealed(model(), x, chains=2, temperatures=3),
        lambda: sandwich(model(), n=3, chains=2, temperatures=3),
        lambda: gaps(model(), x, steps=10**9, chains=2, temperatures=3),  # before any other work
        lambda: lb.evaluate(
            model(), lb.data.from_arrays(torch.rand(40, 4).numpy()), estimator="ais"
        ),
    ):
        with pytest.raises(
            ValueError,
            match=r"^annealing evaluates .*, and a planar flow knows .*; use the importance",
        ) as error:
            tool()
        assert "\n" not in str(error.value)
    assert annealed(model(), x, chains=2, temperatures=3, start="prior").log_w.isfinite().all()


def test_what_does_not_is_given() -> None:
    data = lb.data.from_arrays(torch.rand(60, 4).numpy())
    planar = model()
    with torch.no_grad():
        assert information(planar, torch.rand(6, 4)) is None
    result = lb.evaluate(planar, data, samples=20)
    assert result.nll.value < -result.elbo.value + 1e-6
    assert planar.encode(torch.rand(6, 4)).shape == (6, 2)
