import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.roles import Context, Likelihood
from lowerbound.shapes import Shape
from tests.contracts import LikelihoodContract
from tests.quadrature import real_line


class TestNormal(LikelihoodContract):
    make = staticmethod(lb.likelihoods.Normal)

    def quadrature(self, px: Distribution) -> tuple[Tensor, Tensor]:
        return real_line(px)

    def test_the_mean_is_not_squashed(self) -> None:
        """Whatever the range of the data, the mean can get there: a sigmoid or tanh could not leave
        [-1, 1].
        """
        part = self.make((3,), (4,))
        with torch.no_grad():
            part.net.layers[-1].bias.add_(torch.tensor([-7.0, -2.0, 3.0, 900.0]))
        mean = part(torch.zeros(1, 3), Context()).mean[0]
        assert torch.allclose(mean, torch.tensor([-7.0, -2.0, 3.0, 900.0]), atol=1.0)

    def test_a_fixed_scale_is_not_trained(self) -> None:
        part = self.make((3,), (4,), scale=0.1)
        assert not part.log_scale.requires_grad
        assert part(torch.zeros(1, 3), Context()).stddev[0, 0].item() == pytest.approx(0.1)

    @pytest.mark.parametrize("scale", [0, -1, float("inf"), float("nan"), "learned"])
    def test_refuses_a_scale_that_is_none(self, scale: object) -> None:
        with pytest.raises(ValueError, match="positive number, or 'shared', 'per_dimension'"):
            self.make((3,), (4,), scale=scale)

    def test_the_best_shared_scale_is_the_root_mean_squared_residual(self) -> None:
        part = self.make((3,), (50,))
        z, x = torch.randn(1, 20, 3), torch.randn(20, 50)
        residual = (x - part(z, Context()).mean[0]).pow(2).mean().sqrt()
        optimizer = torch.optim.Adam([part.learned_scale.slow], lr=0.005)
        for _ in range(300):
            optimizer.zero_grad()
            (-part.log_prob(part(z, Context()), x, None).mean()).backward()
            optimizer.step()
        assert part.log_scale.exp().item() == pytest.approx(residual.item(), rel=1e-3)


class TestPerDimension(TestNormal):
    def make(self, z_shape: Shape, x_shape: Shape, scale: object = "per_dimension") -> Likelihood:
        return lb.likelihoods.Normal(z_shape, x_shape, scale=scale)

    def test_there_is_one_scale_for_each_entry(self) -> None:
        assert self.make((3,), (2, 5)).log_scale.shape == (2, 5)

    def test_the_best_shared_scale_is_the_root_mean_squared_residual(self) -> None:
        part = self.make((3,), (5,))
        z, x = torch.randn(1, 200, 3), torch.randn(200, 5) * torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0])
        residual = (x - part(z, Context()).mean[0]).pow(2).mean(0).sqrt()
        optimizer = torch.optim.Adam([part.learned_scale.slow], lr=0.005)
        for _ in range(400):
            optimizer.zero_grad()
            (-part.log_prob(part(z, Context()), x, None).mean()).backward()
            optimizer.step()
        assert torch.allclose(part.log_scale.exp(), residual, rtol=1e-3)


class TestFromTheNetwork(LikelihoodContract):
    def make(self, z_shape: Shape, x_shape: Shape) -> Likelihood:
        return lb.likelihoods.Normal(z_shape, x_shape, scale="network")

    def quadrature(self, px: Distribution) -> tuple[Tensor, Tensor]:
        return real_line(px)

    def test_the_scale_depends_on_z(self) -> None:
        px = self.make((3,), (4,))(torch.randn(5, 3), Context())
        assert px.stddev.std(0).min() > 0
