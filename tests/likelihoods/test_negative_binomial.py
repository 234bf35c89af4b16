import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.roles import Context, Likelihood
from lowerbound.shapes import Shape
from tests.contracts import LikelihoodContract
from tests.quadrature import everywhere

NO_CONTEXT = Context()


class TestNegativeBinomial(LikelihoodContract):
    dispersion: object = "per_dimension"

    def make(self, z_shape: Shape, x_shape: Shape) -> Likelihood:
        """Of small counts and a small dispersion, so that the tails are short enough for all pairs
        to be summed over.
        """
        part = lb.likelihoods.NegativeBinomial(z_shape, x_shape, dispersion=self.dispersion)
        part.base.fill_(-1.0)
        part.log_start.fill_(-3.0)
        return part

    def quadrature(self, px: Distribution) -> tuple[Tensor, Tensor]:
        """The counts up to where less than 1e-9 is left: far out, the tail falls by mu / (mu + r) a
        step.
        """
        odds = (px.base_dist.log_mean + px.base_dist.log_dispersion).exp()
        n = int((25 / torch.log1p(1 / odds)).max() + 4 * px.mean.max()) + 40
        assert n < 2500, f"{n}: the pairs would not fit into memory"
        return everywhere(px, torch.arange(n), torch.ones(n))

    def test_the_default_is_one_dispersion_for_each_entry(self) -> None:
        assert lb.likelihoods.NegativeBinomial((3,), (2, 5)).log_dispersion.shape == (2, 5)

    def test_refuses_a_dispersion_that_is_none(self) -> None:
        for dispersion in (-1, float("inf"), float("nan"), "learned"):
            with pytest.raises(
                ValueError, match=r"not negative \(0 is the Poisson\), or 'shared', 'per_dimension'"
            ):
                lb.likelihoods.NegativeBinomial((3,), (4,), dispersion=dispersion)


class TestShared(TestNegativeBinomial):
    dispersion = "shared"


class TestFromTheNetwork(TestNegativeBinomial):
    dispersion = "network"


class TestPoisson(TestNegativeBinomial):
    dispersion = 0

    def test_is_the_poisson(self) -> None:
        px = self.make((3,), (4,))(torch.randn(5, 3), NO_CONTEXT)
        x = torch.arange(9.0)[:, None, None].expand(9, 5, 4)
        poisson = torch.distributions.Poisson(px.mean).log_prob(x).sum(-1)
        assert torch.allclose(px.log_prob(x), poisson, rtol=1e-5)
        assert torch.allclose(px.variance, px.mean)


def silent(part: Likelihood) -> Distribution:
    """p(x|z) where the network says nothing."""
    for p in part.net.parameters():
        p.data.zero_()
    return part(torch.randn(3, 2), NO_CONTEXT)


@pytest.mark.parametrize("dispersion", ["per_dimension", "network"])
def test_starts_at_the_moments_of_the_data(dispersion: str) -> None:
    x = torch.tensor([[1000.0, 0.0], [3000.0, 0.0], [8000.0, 0.0], [4000.0, 0.0]])
    part = lb.likelihoods.NegativeBinomial((2,), (2,), dispersion=dispersion)
    part.prepare(x)
    px = silent(part)
    assert torch.allclose(px.mean, torch.tensor([4000.0, 0.125]).expand(3, 2), rtol=1e-4)
    assert torch.allclose(px.variance[:, 0], x[:, 0].var(correction=0).expand(3), rtol=1e-3)


def test_a_shared_dispersion_starts_at_the_pooled_moments_and_stays_in_bounds() -> None:
    x = torch.tensor([[1.0, 30.0], [3.0, 90.0]])
    part = lb.likelihoods.NegativeBinomial((2,), (2,), dispersion="shared")
    part.prepare(x)
    excess = (1 - 2) + (900 - 60)
    assert silent(part).base_dist.log_dispersion.exp()[0, 0].item() == pytest.approx(
        excess / (4 + 3600), rel=1e-5
    )
    calm = lb.likelihoods.NegativeBinomial((2,), (2,))
    calm.prepare(torch.full((9, 2), 7.0))  # less than a Poisson varies
    assert torch.allclose(calm.log_dispersion.exp(), torch.tensor(0.01))
    calm.prepare(x)
    assert torch.allclose(calm.base.exp(), torch.tensor(7.0)), "what is set is not set again"


def counts(n: int, mean: float, dispersion: float) -> np.ndarray:
    """Counts whose log-mean has one factor: (n, 6)."""
    rng = np.random.default_rng(0)
    rate = mean * np.exp(0.8 * rng.standard_normal((n, 1)) * np.array([1, -1, 1, -1, 0.5, 0]))
    return rng.poisson(rate * rng.gamma(1 / dispersion, dispersion, (n, 6)))


@pytest.mark.parametrize("mean", [3.0, 4000.0])
def test_learns_the_dispersion_of_counts_of_any_size(mean: float) -> None:
    torch.manual_seed(0)
    data = lb.data.from_arrays(counts(2000, mean, 0.05))
    model = lb.VAE(
        prior=lb.priors.StandardNormal((2,)),
        posterior=lb.posteriors.DiagonalNormal((6,), (2,)),
        likelihood=lb.likelihoods.NegativeBinomial((2,), (6,), dispersion="shared"),
    )
    history = lb.fit(
        model, lb.objectives.ELBO(), data, epochs=30, learning_rate=3e-3, progress=False
    )
    losses = history.series("distortion")
    assert losses[-1] < losses[0] - 1
    # It starts at the moments of all examples, exp(0.64) - 1 = 0.9 for most entries. 1,600 x 6
    # counts tell the dispersion to 0.01, and what one z leaves of the factor adds to it, most where
    # the noise of counts of 3 hides it (0.09 found).
    assert model.likelihood.log_start.exp().min() > 0.4
    assert model.likelihood.log_dispersion.exp().max() < 0.15


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            [[-1, 3], [2, 5], [7, 0]],
            r"on the counts \{0, 1, 2, ...\}, but .* lies on the integers.*choose another .*Normal",
        ),
        ([[0.5, 3], [2, 5], [7, 0]], r"lies on the real line"),
        (
            np.array([[9, 3], [2, 5], [7, 0]], np.uint8),
            r"lies on the 256 levels.*--data.levels none",
        ),
    ],
)
def test_refuses_what_are_no_counts(x: object, message: str) -> None:
    data = lb.data.from_arrays(np.array(x))
    model = lb.VAE(
        prior=lb.priors.StandardNormal((2,)),
        posterior=lb.posteriors.DiagonalNormal((2,), (2,)),
        likelihood=lb.likelihoods.NegativeBinomial((2,), (2,)),
    )
    with pytest.raises(ValueError, match=message):
        lb.fit(model, lb.objectives.ELBO(), data, epochs=1, progress=False)
