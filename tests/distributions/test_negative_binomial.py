import math

import pytest
import torch

from lowerbound.distributions import NegativeBinomial
from tests.contracts import within


def exact(x: int, mean: float, dispersion: float) -> float:
    """log p(x) by its definition as a product: nothing large is ever subtracted."""
    rising = math.fsum(math.log1p(i * dispersion) for i in range(x))
    factorial = math.fsum(math.log(i) for i in range(1, x + 1))
    tail = math.log1p(dispersion * mean) / dispersion if dispersion else mean
    return rising - factorial + x * (math.log(mean) - math.log1p(dispersion * mean)) - tail


def made(mean: float, dispersion: float, dtype: torch.dtype = torch.float64) -> NegativeBinomial:
    log_alpha = math.log(dispersion) if dispersion else -math.inf
    return NegativeBinomial(
        torch.tensor(math.log(mean), dtype=dtype), torch.tensor(log_alpha, dtype=dtype)
    )


@pytest.mark.parametrize("mean", [0.01, 3.0, 5000.0])
@pytest.mark.parametrize("dispersion", [0.0, 1e-30, 1e-9, 1e-3, 1 / 21, 1 / 19, 0.5, 40.0])
def test_log_prob_is_the_product_of_its_definition(mean: float, dispersion: float) -> None:
    for x in (0, 1, 7, 300, 4000):
        log_p = made(mean, dispersion).log_prob(torch.tensor(float(x), dtype=torch.float64)).item()
        assert log_p == pytest.approx(exact(x, mean, dispersion), rel=1e-11, abs=1e-10)


def test_float32_is_as_good_as_its_parameters() -> None:
    """torch's own is a nat off at alpha = 1e-6, for log Gamma(1e6 + x) and log Gamma(1e6) are
    1.3e7.
    """
    px, x = made(3.0, 1e-6, torch.float32), torch.tensor(3.0)
    assert px.log_prob(x).item() == pytest.approx(exact(3, 3.0, 1e-6), abs=1e-6)
    total, logit = torch.tensor(1e6), torch.tensor(3e-6).log()
    lost = torch.distributions.NegativeBinomial(total, logits=logit).log_prob(x).item() - exact(
        3, 3.0, 1e-6
    )
    assert abs(lost) > 0.05


def test_agrees_with_torch_where_that_is_exact() -> None:
    log_mean, log_alpha = torch.randn(2, 50, dtype=torch.float64)
    x = torch.arange(30.0, dtype=torch.float64)[:, None]
    other = torch.distributions.NegativeBinomial((-log_alpha).exp(), logits=log_mean + log_alpha)
    px = NegativeBinomial(log_mean, log_alpha)
    assert torch.allclose(px.log_prob(x), other.log_prob(x), rtol=1e-10, atol=1e-10)
    assert torch.allclose(px.mean, other.mean)
    assert torch.allclose(px.variance, other.variance)


def test_the_limit_is_the_poisson() -> None:
    x = torch.arange(40.0, dtype=torch.float64)
    poisson = torch.distributions.Poisson(torch.tensor(7.0, dtype=torch.float64)).log_prob(x)
    distances = [
        (made(7.0, alpha).log_prob(x) - poisson).abs().max().item()
        for alpha in (1e-2, 1e-4, 1e-6, 0.0)
    ]
    assert distances[-1] < 1e-12
    # what is left is (x (x - 1) + mu^2 - 2 x mu) alpha / 2 to the first order
    assert [
        d / alpha for d, alpha in zip(distances[1:3], (1e-4, 1e-6), strict=True)
    ] == pytest.approx([(39 * 38 + 49 - 2 * 39 * 7) / 2] * 2, rel=0.01)


@pytest.mark.parametrize(
    ("mean", "dispersion"), [(0.3, 2.0), (2000.0, 0.1), (5.0, 0.0), (4.0, 1.0)]
)
def test_samples_have_the_mean_and_the_variance(mean: float, dispersion: float) -> None:
    torch.manual_seed(0)
    px = made(mean, dispersion, torch.float32)
    x = px.sample((20000,))
    assert bool(px.support.check(x).all())
    assert px.variance.item() == pytest.approx(mean + dispersion * mean**2, rel=1e-5)
    assert within(x, px.mean)
    assert within((x - px.mean) ** 2, px.variance)


def test_gradients_are_finite_whatever_the_parameters_and_the_count() -> None:
    steps = torch.tensor([-90.0, -60.0, -20.0, -3.0, -2.9, 0.0, 3.0, 20.0, 80.0])
    for x in (0.0, 1.0, 5000.0):
        log_mean, log_alpha = (
            steps[:, None].clone().requires_grad_(),
            steps.clone().requires_grad_(),
        )
        log_p = NegativeBinomial(log_mean, log_alpha).log_prob(torch.tensor(x))
        gradients = torch.autograd.grad(log_p.sum(), [log_mean, log_alpha])
        assert bool(log_p.isfinite().all())
        assert all(bool(g.isfinite().all()) for g in gradients)
