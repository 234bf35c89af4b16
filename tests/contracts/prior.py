"""p(z): its shapes, that it integrates to one, its moments, and its gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.draw import RateEstimator
from lowerbound.roles import Posterior, Prior
from lowerbound.shapes import Shape
from tests.contracts.checks import (
    NO_CONTEXT,
    SHAPES,
    check_loss_gradients,
    moved,
    within,
)
from tests.contracts.part import PartContract
from tests.quadrature import moments, real_line, total_probability


class PriorContract(PartContract):
    """``make`` may ask for data of shape (4,)."""

    role = "prior"
    make: Callable[[Shape], Prior]
    tolerance: ClassVar[float] = 1e-8
    """Of its integral: that of quadrature, which is coarser where a density has corners."""

    def posterior(self, z_shape: Shape) -> Posterior:
        """What it is composed with."""
        return lb.posteriors.DiagonalNormal((4,), z_shape)

    def pz(self, part: Prior) -> Distribution:
        """What the part gives; a prior that is made of the posterior is handed one here."""
        return part(NO_CONTEXT)

    @pytest.mark.parametrize("z_shape", SHAPES)
    def test_batch_is_empty_and_event_is_z(self, z_shape: Shape) -> None:
        pz = self.pz(self.make(z_shape))
        assert pz.event_shape == z_shape
        assert pz.batch_shape == ()

    @pytest.mark.parametrize("z_shape", SHAPES)
    def test_is_evaluated_at_any_leading_dimensions(self, z_shape: Shape) -> None:
        pz = self.pz(self.make(z_shape))
        assert pz.log_prob(torch.randn(7, 5, *z_shape)).shape == (7, 5)

    def quadrature(self, pz: Distribution) -> tuple[Tensor, Tensor]:
        """Points and weights (n, *Z) that integrate its density."""
        return real_line(pz)

    @pytest.mark.parametrize("z_shape", [(), (1,), (2,)])
    @pytest.mark.parametrize("learned", [False, True])
    def test_is_normalised(self, z_shape: Shape, learned: bool) -> None:
        part = self.make(z_shape).double()
        pz = self.pz(moved(part) if learned else part)
        total = total_probability(pz.log_prob, self.quadrature(pz), z_shape)
        assert total.item() == pytest.approx(1, abs=self.tolerance)

    def test_moments_are_those_of_samples(self) -> None:
        pz = self.pz(moved(self.make((2,)).double()))
        z = pz.sample((20_000,))
        centre, variance = moments(pz, self.quadrature(pz))
        for d in range(2):
            assert within(z[:, d], centre[d])
            assert within((z[:, d] - centre[d]) ** 2, variance[d])

    @pytest.mark.parametrize("kl", ["auto", "sampled"])
    def test_gradients_of_the_loss_are_those_of_finite_differences(self, kl: RateEstimator) -> None:
        posterior, likelihood = self.posterior((3,)), lb.likelihoods.Normal((3,), (4,))
        model = lb.VAE(moved(self.make((3,))), posterior, likelihood).double()
        check_loss_gradients(model, lb.objectives.ELBO(kl=kl, samples=2), torch.rand(5, 4).double())

    def test_describes_itself(self) -> None:
        self.check_describes_itself(self.make((3,)), x_shape=(4,), z_shape=(3,))
