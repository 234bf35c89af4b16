"""Mutual information and the aggregate posterior, where both are known."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

import lowerbound as lb
from lowerbound.codes import CodeSampling
from lowerbound.distributions.bijections import Generating
from lowerbound.evaluation import information
from lowerbound.roles import Context, Posterior
from tests.contracts import within
from tests.known_models import drawing, finite

D, Z = 4, 2
N = 1500


class Channel(Posterior):
    """q(z|x) = N(A x, s^2 I): with x ~ N(0, I) a linear Gaussian channel, whose information is
    known.
    """

    def __init__(self, a: Tensor, s: float) -> None:
        super().__init__((D,), (Z,))
        self.a, self.s = torch.nn.Parameter(a), s

    def forward(self, x: Tensor, context: Context) -> Distribution:
        scale = self.s * torch.eye(Z, dtype=x.dtype)
        return MultivariateNormal(
            x @ self.a.T, scale_tril=scale.expand(len(x), Z, Z), validate_args=False
        )


def channel(s: float) -> tuple[lb.VAE, Tensor, float, float]:
    """A model, x, the mutual information and the marginal KL: q(z) = N(0, A A' + s^2 I)."""
    a = torch.tensor([[0.6, -0.2, 0.3, 0.0], [0.1, 0.5, 0.0, -0.4]]).double()
    model = lb.VAE(
        lb.priors.StandardNormal((Z,)), Channel(a, s), lb.likelihoods.Normal((Z,), (D,))
    ).double()
    covariance = a @ a.T + s**2 * torch.eye(Z)
    mutual = 0.5 * (torch.logdet(covariance) - Z * math.log(s**2))
    marginal = 0.5 * (covariance.trace() - Z - torch.logdet(covariance))
    return model, torch.randn(N, D, dtype=torch.float64), float(mutual), float(marginal)


def test_both_bounds_hold_and_meet_for_a_gaussian_channel() -> None:
    model, x, mutual, marginal = channel(s=0.5)
    with torch.no_grad():
        found = information(model, x)
    for lower, upper, truth in (
        (found.mutual_information, found.mutual_information_upper, mutual),
        (found.marginal_kl_lower, found.marginal_kl, marginal),
    ):
        slack = 4 / math.sqrt(N)
        assert lower.mean() <= truth + slack * lower.std()
        assert upper.mean() >= truth - slack * upper.std()
        # they meet: the two differ by what one example adds to the average at its own place, and by
        # noise
        difference = upper - lower
        assert abs(difference.mean()) < slack * difference.std() + 0.05
        assert abs(lower.mean() - truth) < slack * lower.std() + 0.02


def test_the_two_parts_add_up_to_the_rate() -> None:
    model, x, mutual, marginal = channel(s=0.5)
    with torch.no_grad():
        found = information(model, x)
        rate = model(x).rate
    assert within(found.mutual_information + found.marginal_kl - mutual - marginal, 0.0, errors=4.5)
    assert within(rate - mutual - marginal, 0.0)
    assert (found.mutual_information <= math.log(N) + 1e-9).all()
    assert torch.allclose(found.mutual_information_upper + found.marginal_kl_lower, rate)


def test_the_bounds_hold_in_expectation_where_they_are_tight() -> None:
    """q(z) = p(z) exactly: the marginal KL is 0, and a choice between two bounds by their noise
    would show.
    """
    torch.manual_seed(1)
    a = torch.linalg.qr(torch.randn(D, Z, dtype=torch.float64)).Q.T * 0.6
    model = lb.VAE(
        lb.priors.StandardNormal((Z,)), Channel(a, 0.8), lb.likelihoods.Normal((Z,), (D,))
    ).double()
    mutual = -Z * math.log(0.8)
    found = []
    with torch.no_grad():
        for _ in range(300):
            part = information(model, torch.randn(60, D, dtype=torch.float64))
            found.append(
                [
                    part.mutual_information.mean(),
                    part.mutual_information_upper.mean(),
                    part.marginal_kl.mean(),
                ]
            )
    lower, upper, marginal = torch.tensor(found).unbind(1)
    slack = 4 / math.sqrt(300)
    assert lower.mean() < mutual + slack * lower.std()
    assert upper.mean() > mutual - slack * upper.std()
    assert marginal.mean() > -slack * marginal.std()
    assert upper.mean() > lower.mean()


def test_codes_that_never_overlap_are_bounded_by_log_n_and_the_rate() -> None:
    model, x, mutual, _ = channel(s=1e-4)
    with torch.no_grad():
        found = information(model, x)
        rate = model(x).rate.mean()
    assert mutual > math.log(N)
    assert abs(found.mutual_information.mean() - math.log(N)) < 0.1
    assert torch.isclose(found.mutual_information_upper.mean(), rate)
    assert found.marginal_kl_lower is None  # no more is known than that it is not negative


def test_a_code_that_is_the_same_for_every_x_carries_nothing() -> None:
    model, x, _, _ = channel(s=1.0)
    torch.nn.init.zeros_(model.posterior.a)
    with torch.no_grad():
        found = information(model, x)
    for values in vars(found).values():
        assert values.mean().abs() < 1e-6


def test_labels_travel_with_their_examples() -> None:
    class Labelled(Channel):
        """q(z|x, y) = N(y, s^2): nothing but the label."""

        def forward(self, x: Tensor, context: Context) -> Distribution:
            scale = self.s * torch.eye(Z, dtype=x.dtype)
            mean = context.y[:, None].expand(-1, Z) + 0 * x @ self.a.T
            return MultivariateNormal(
                mean, scale_tril=scale.expand(len(x), Z, Z), validate_args=False
            )

    model, x, _, _ = channel(s=0.1)
    model.posterior = Labelled(model.posterior.a.data, 0.1)
    y = torch.arange(N, dtype=torch.float64) % 4
    with torch.no_grad():
        found = information(model, x, Context(y=y), batch_size=7)
    assert within(found.mutual_information - math.log(4), 0.0)


def test_it_does_not_depend_on_how_many_are_worked_on_at_a_time(monkeypatch) -> None:
    model, x, _, _ = channel(s=0.5)
    results = []
    for values, batch_size in ((2**22, N), (7 * N * Z, N), (2**22, 1)):
        monkeypatch.setattr(
            sys.modules["lowerbound.evaluation.information"], "MAX_PAIRWISE_VALUES", values
        )
        torch.manual_seed(0)
        with torch.no_grad():
            results.append(information(model, x, batch_size=batch_size))
    for name, values in vars(results[0]).items():
        assert torch.allclose(values, getattr(results[1], name))
        assert torch.allclose(
            values.mean(), getattr(results[2], name).mean(), atol=0.15
        )  # other draws


@pytest.mark.parametrize("draws", ["sampled", "enumerated"])
def test_of_a_discrete_code(draws: CodeSampling) -> None:
    model = drawing(finite((3,)), draws)
    x = torch.randint(0, 2, (400, 5)).double()
    with torch.no_grad():
        found = information(model, x)
        q = model.posterior(x, Context()).base_dist.probs
    entropy = -(q * q.log()).sum(1).mean()
    aggregate = q.mean(0)
    exact = -(aggregate * aggregate.log()).sum() - entropy  # of the 400 as the population
    assert within(found.mutual_information - exact, 0.0)


def test_one_example_has_no_aggregate() -> None:
    model, x, _, _ = channel(s=1.0)
    assert information(model, x[:1]) is None


def test_of_a_slow_inverse_fewer_examples_are_paired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["lowerbound.evaluation.information"], "PASSES", 2 * 2 * 30**2)
    shapes = {"x_shape": (4,), "z_shape": (2,)}
    inverted = 0

    def counted(self: Generating, z: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal inverted
        inverted += z.shape[:-1].numel()
        return original(self, z)

    original = Generating.invert
    monkeypatch.setattr(Generating, "invert", counted)
    for posterior, expected in (
        (lb.posteriors.InverseAutoregressive(**shapes, layers=2, hidden=(4,)), 30),
        (lb.posteriors.InverseAutoregressive(**shapes, layers=8, hidden=(4,)), 15),
        (lb.posteriors.DiagonalNormal(**shapes), 50),
    ):
        model = lb.VAE(lb.priors.StandardNormal((2,)), posterior, lb.likelihoods.Normal((2,), (4,)))
        with torch.no_grad():
            found = information(model, torch.rand(50, 4), batch_size=20)
        assert all(len(value) == expected for value in vars(found).values() if value is not None)
        assert found.mutual_information.mean() <= math.log(expected) + 1e-6
    assert inverted <= 40 * 30 + 20 * 15 + 2 * 20  # whole batches, and a probe of each
