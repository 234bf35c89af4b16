from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.evaluation import annealed, evidence
from lowerbound.roles import Context
from tests.contracts import PriorContract, all_parameters_get_gradients, moved, within
from tests.known_models import Curved
from tests.quadrature import real_line


class TestMixture(PriorContract):
    make = staticmethod(lb.priors.Mixture)

    def quadrature(self, pz: Distribution) -> tuple[Tensor, Tensor]:
        return real_line(pz, 641)  # a component is narrower than the whole

    @pytest.mark.parametrize("z_shape", [(), (3,), (2, 3)])
    def test_the_density_is_the_weighted_sum(self, z_shape: tuple[int, ...]) -> None:
        prior, z = (
            moved(self.make(z_shape, components=4)).double(),
            torch.randn(7, 5, *z_shape).double(),
        )
        weight = prior.logits.exp() / prior.logits.exp().sum()
        entries = tuple(range(-len(z_shape), 0))
        total = torch.zeros(7, 5).double()
        for c in range(4):
            s = prior.log_scale[c].exp()
            density = (-((z - prior.loc[c]) ** 2) / (2 * s**2)).exp() / (s * math.sqrt(2 * math.pi))
            total = total + weight[c] * (density.log().sum(entries).exp() if z_shape else density)
        assert torch.allclose(prior(Context()).log_prob(z), total.log(), rtol=1e-10)

    def test_it_starts_wide_and_with_no_two_components_alike(self) -> None:
        """Mean 0 and variance 1 in expectation over 20,000 starts' worth of components; other
        seeds, other starts.
        """
        prior = self.make((), components=20_000)
        pz = prior(Context())
        assert within(prior.loc.detach(), 0.0)
        assert within(prior.loc.detach() ** 2 + prior.log_scale.detach().exp() ** 2, 1.0)
        assert pz.mean.shape == pz.variance.shape == ()
        assert len(self.make((2,)).loc.unique(dim=0)) == 10

    def test_gradients_reach_every_parameter(self) -> None:
        for components in (1, 10):
            prior = self.make((2, 2), components=components)
            prior(Context()).log_prob(torch.randn(7, 2, 2)).sum().backward()
            all_parameters_get_gradients(prior)

    def test_it_finds_two_clusters(self) -> None:
        z = torch.cat([torch.randn(3000, 2) * 0.3 - 2, torch.randn(1000, 2) * 0.6 + 2])
        prior = self.make((2,), components=2)
        optimizer = torch.optim.Adam(prior.parameters(), lr=0.05)
        for _ in range(300):
            optimizer.zero_grad()
            (-prior(Context()).log_prob(z).mean()).backward()
            optimizer.step()
        order = prior.loc[:, 0].argsort()
        # the maximum-likelihood fit of clusters that do not overlap: share, mean and spread of each
        assert torch.allclose(prior.logits.softmax(0)[order], torch.tensor([0.75, 0.25]), atol=1e-2)
        for c, rows in zip(order, (z[:3000], z[3000:]), strict=True):
            assert torch.allclose(prior.loc[c], rows.mean(0), atol=2e-2)
            assert torch.allclose(prior.log_scale[c].exp(), rows.std(0), atol=2e-2)


def test_no_component_is_refused() -> None:
    with pytest.raises(ValueError, match="components is 0: at least 1"):
        lb.priors.Mixture((2,), components=0)


@pytest.mark.parametrize("start", ["posterior", "prior"])
def test_annealing_and_weighting_find_the_integral(start: str) -> None:
    """One latent, a prior of separate modes, integrated numerically; E[w] = p(x) from either
    start.
    """
    prior = lb.priors.Mixture((1,), components=3)
    with torch.no_grad():
        prior.loc.copy_(torch.tensor([[-2.0], [0.0], [2.5]]))
        prior.log_scale.fill_(math.log(0.5))
    model = lb.VAE(prior, lb.posteriors.DiagonalNormal((5,), (1,)), Curved((1,), (5,))).double()
    x, _ = model.sample_joint(8)
    z = torch.linspace(-12, 12, 20001, dtype=torch.float64)[:, None, None].expand(-1, 8, -1)
    with torch.no_grad():
        exact = torch.logsumexp(model.log_joint(x, (z,)), 0) + math.log(24 / 20000)
    walked = annealed(model, x, chains=3000, temperatures=12, start=start, seed=0)
    ratio = (walked.log_w - exact).exp()
    assert bool(((ratio.mean(0) - 1).abs() < 4.5 * ratio.std(0) / math.sqrt(3000) + 1e-6).all())
    with torch.no_grad():
        weighted = evidence(model, x, samples=20_000)
    weights = (weighted.log_terms + math.log(20_000) - exact).exp()
    # a normal posterior of unit scale leaves the weights without a variance in places: 6 standard
    # errors
    assert bool(((weights.mean(0) - 1).abs() < 6 * weights.std(0) / math.sqrt(20_000)).all())
