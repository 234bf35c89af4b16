import pytest
import torch

import lowerbound as lb
from lowerbound.roles import Context, Prior
from lowerbound.shapes import Shape
from tests.contracts import PriorContract, all_parameters_get_gradients


class TestDiagonal(PriorContract):
    make = staticmethod(lb.priors.Normal)


class TestFull(PriorContract):
    def make(self, z_shape: Shape) -> Prior:
        return lb.priors.Normal(z_shape, covariance="full")

    def test_it_starts_as_the_standard_normal_and_learns_everything(self) -> None:
        prior, z = self.make((2, 2)), torch.randn(7, 2, 2)
        assert torch.allclose(
            prior(Context()).log_prob(z),
            lb.priors.StandardNormal((2, 2))(Context()).log_prob(z),
            atol=1e-5,
        )
        prior(Context()).log_prob(z).sum().backward()
        all_parameters_get_gradients(prior)

    def test_a_scalar_latent_has_moments_and_samples(self) -> None:
        pz = self.make(())(Context())
        assert pz.mean.shape == pz.variance.shape == pz.sample().shape == ()

    def test_it_fits_a_correlated_cloud(self) -> None:
        truth = torch.distributions.MultivariateNormal(
            torch.tensor([1.0, -2.0]), torch.tensor([[1.0, 0.9], [0.9, 2.0]])
        )
        z, prior = truth.sample((5000,)), self.make((2,))
        optimizer = torch.optim.Adam(prior.parameters(), lr=0.05)
        for _ in range(400):
            optimizer.zero_grad()
            (-prior(Context()).log_prob(z).mean()).backward()
            optimizer.step()
        # the maximum-likelihood fit is the sample's own mean and covariance
        assert torch.allclose(prior(Context()).mean, z.mean(0), atol=1e-2)
        assert torch.allclose(
            prior(Context()).flat.covariance_matrix, torch.cov(z.T, correction=0), atol=2e-2
        )


def test_another_covariance_is_refused() -> None:
    with pytest.raises(ValueError, match="'diagonal' and 'full'"):
        lb.priors.Normal((2,), covariance="spherical")
