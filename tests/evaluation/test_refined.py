"""q refined for single examples: the best member of the family, where it is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from lowerbound.evaluation import evidence, refined
from tests.conftest import make_model
from tests.contracts import within
from tests.test_exact import linear, ppca


def elbo(model: lb.VAE, x: Tensor) -> Tensor:
    with torch.no_grad():
        found = evidence(model, x, samples=500)
    return -found.rate - found.distortion


def linear_model(posterior: str) -> tuple[lb.VAE, Tensor, Tensor]:
    """A linear VAE whose encoder was never trained, with data and their exact log p(x)."""
    known, x, exact = ppca()
    part = getattr(lb.posteriors, posterior)((6,), (2,), network=linear)
    return (
        lb.VAE(lb.priors.StandardNormal((2,)), part, known.likelihood).double().eval(),
        x[:40],
        exact[:40],
    )


def test_a_family_that_holds_the_posterior_has_no_approximation_gap() -> None:
    model, x, exact = linear_model("FullNormal")
    before = elbo(model, x)
    with refined(model, model.posterior, x, steps=1500):
        after = elbo(model, x)
    assert (exact - before).mean() > 1
    assert within(exact - after, 0.0) or (exact - after).mean().abs() < 0.03


def test_a_diagonal_family_keeps_the_gap_that_mean_field_theory_gives() -> None:
    """The best diagonal normal for a Gaussian posterior has its precision's diagonal; the KL is
    then known.
    """
    model, _, _ = linear_model("DiagonalNormal")
    layer = model.likelihood.net.layers[0]
    weight = torch.tensor(
        [[1.0, 0.8], [0.5, 0.6], [0.0, 0.3], [-0.7, -0.5], [0.2, 0.2], [0.4, 0.1]]
    ).double()
    layer.weight.data.copy_(weight)
    variance = model.likelihood.log_scale.detach().exp() ** 2
    truth = MultivariateNormal(
        layer.bias.detach(), weight @ weight.T + variance * torch.eye(6, dtype=torch.float64)
    )
    x = truth.sample((40,))
    precision = torch.eye(2, dtype=torch.float64) + weight.T @ weight / variance
    gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    with refined(model, model.posterior, x, steps=1500):
        after = elbo(model, x)
    assert gap > 0.3
    difference = truth.log_prob(x) - after - gap
    assert abs(difference.mean()) < 4 * difference.std() / 40**0.5 + 0.01


def test_nothing_is_left_behind(binary_digits: Dataset) -> None:
    model = make_model(binary_digits).eval()
    x = binary_digits.examples("test")[:5]
    before, code = {k: v.clone() for k, v in model.state_dict().items()}, model.encode(x)
    with refined(model, model.posterior, x, steps=5):
        assert not torch.equal(model.encode(x), code)
    assert torch.equal(model.encode(x), code)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(RuntimeError, match="stop"), refined(model, model.posterior, x, steps=1):
        raise RuntimeError("stop")
    assert torch.equal(model.encode(x), code)


def test_gaps_are_the_parts_of_what_the_bound_loses(binary_digits: Dataset) -> None:
    model = make_model(binary_digits)
    lb.fit(model, lb.objectives.ELBO(), binary_digits, epochs=5, progress=False)
    found = lb.gaps(
        model, binary_digits.examples("test")[:30], steps=100, chains=8, temperatures=40
    )
    assert found.elbo.n == 30
    assert found.amortisation_gap.value > 0
    assert found.approximation_gap.value > -4 * found.approximation_gap.stderr
    lost = found.log_marginal.value - found.elbo.value
    assert lost == pytest.approx(found.approximation_gap.value + found.amortisation_gap.value)
    assert set(found.as_json()) == {
        "elbo", "refined_elbo", "log_marginal", "approximation_gap", "amortisation_gap", "warnings"
    }  # fmt: skip


def test_refusals(digits: Dataset, binary_digits: Dataset) -> None:
    model = make_model(binary_digits)
    x = binary_digits.examples("test")[:2]
    with pytest.raises(ValueError, match="steps is 0"), refined(model, model.posterior, x, steps=0):
        pass
    with (
        pytest.raises(ValueError, match="Identity has no network"),
        refined(model, nn.Identity(), x),
    ):
        pass
    score = make_model(digits, likelihood="BinaryCrossEntropy")
    with (
        pytest.raises(ValueError, match="no log-density"),
        refined(score, score.posterior, x, steps=1),
    ):
        pass
