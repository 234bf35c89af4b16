from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from lowerbound.roles import Context
from tests.conftest import make_model
from tests.contracts import LikelihoodContract
from tests.quadrature import everywhere


class TestBernoulli(LikelihoodContract):
    make = staticmethod(lb.likelihoods.Bernoulli)

    def quadrature(self, px: Distribution) -> tuple[Tensor, Tensor]:
        return everywhere(px, [0.0, 1.0], [1.0, 1.0])


class TestWithABase(TestBernoulli):
    """Away from p = 1/2."""

    def make(self, z_shape: tuple[int, ...], x_shape: tuple[int, ...]) -> lb.likelihoods.Bernoulli:
        part = lb.likelihoods.Bernoulli(z_shape, x_shape)
        part.prepare((torch.rand(20, *x_shape) < 0.3).float())
        return part


def test_a_network_that_says_nothing_gives_the_mean_example() -> None:
    x = torch.tensor(
        [[0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]]
    )
    part = lb.likelihoods.Bernoulli((2,), (4,))
    part.prepare(x)
    for p in part.net.parameters():
        p.data.zero_()
    mean = part(torch.randn(3, 2), Context()).mean
    expected = torch.tensor([0.001, 0.999, 0.25, 0.5])  # nothing is certain
    assert torch.allclose(mean, expected.expand(3, 4), atol=1e-6)


def test_the_base_is_set_before_the_first_step_saved_and_never_set_again(
    binary_digits: Dataset, tmp_path: Path
) -> None:
    settings = {"out": tmp_path / "run", "progress": False}
    model = make_model(binary_digits)
    lb.fit(model, lb.objectives.ELBO(), binary_digits, epochs=1, **settings)
    expected = binary_digits.examples("train").mean(0).clamp(1e-3, 1 - 1e-3).logit()
    assert torch.allclose(model.likelihood.base, expected, atol=1e-5)
    again = lb.load(tmp_path / "run")
    assert torch.equal(again.likelihood.base, model.likelihood.base)
    others = lb.data.from_arrays(1 - binary_digits.examples("train").numpy())
    lb.fit(again, lb.objectives.ELBO(), others, epochs=1, progress=False)
    assert torch.equal(again.likelihood.base, model.likelihood.base)


def test_a_resumed_run_keeps_its_base(
    binary_digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, settings = (
        lb.objectives.ELBO(),
        {"epochs": 2, "out": tmp_path / "run", "progress": False},
    )
    model, resumed = make_model(binary_digits), make_model(binary_digits)
    lb.fit(model, objective, binary_digits, **settings)
    monkeypatch.setattr(
        lb.likelihoods.Bernoulli, "prepare", lambda self, x: pytest.fail("prepared again")
    )
    lb.fit(resumed, objective, binary_digits, resume=True, **settings)
    assert torch.equal(resumed.likelihood.base, model.likelihood.base)


def test_training_starts_from_the_mean_example(binary_digits: Dataset) -> None:
    """The loss of a first epoch without steps: the entropy of the pixels, in place of log 2 for
    each.
    """
    history = lb.fit(
        make_model(binary_digits),
        lb.objectives.ELBO(),
        binary_digits,
        epochs=1,
        learning_rate=1e-12,
        progress=False,
    )
    p = binary_digits.examples("train").mean(0).double()
    entropy = -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)).sum().item()
    assert history.series("distortion")[0] < 1.1 * entropy < 0.9 * 64 * 0.6931
