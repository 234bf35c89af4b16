"""Priors over the codes of the posterior's codebook."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.draw import RateEstimator
from lowerbound.objective import Step
from lowerbound.roles import Context, Prior
from lowerbound.shapes import Shape
from tests.contracts import (
    NO_CONTEXT,
    PriorContract,
    all_parameters_get_gradients,
    check_gradients,
    moved,
)

IndependentCodes = lb.priors.IndependentCodes
AutoregressiveCodes = partial(lb.priors.AutoregressiveCodes, width=8, layers=1, heads=2)
VectorQuantised = lb.posteriors.VectorQuantised
X = (4,)


def beside(part: Prior) -> VectorQuantised:
    """A posterior with as many codes as the prior has."""
    return VectorQuantised(X, part.z_shape, codes=5).to(next(part.parameters())).eval()


class TestIndependentCodes(PriorContract):
    def make(self, z_shape: Shape) -> Prior:
        return IndependentCodes(z_shape, codes=5)

    def pz(self, part: Prior) -> Distribution:
        return part(NO_CONTEXT, beside(part))

    def quadrature(self, pz: Distribution) -> tuple[Tensor, Tensor]:
        """All codes: a sum."""
        # a Codes
        codes = pz.book.vectors.reshape(-1, *pz.event_shape)  # type: ignore[attr-defined]
        return codes, torch.ones_like(codes)

    @pytest.mark.parametrize("kl", ["auto", "sampled"])
    def test_gradients_of_the_loss_are_those_of_finite_differences(self, kl: RateEstimator) -> None:
        prior = moved(self.make((3, 2)))
        model = lb.VAE(prior, beside(prior), lb.likelihoods.Normal((3, 2), X)).double().eval()
        x = torch.rand(5, *X).double()

        def loss() -> Tensor:
            return lb.objectives.ELBO(kl=kl, samples=2)(model(x), Step(0.5, 100)).total

        check_gradients(loss, model.prior, model.likelihood)

    def test_gradients_reach_every_parameter(self) -> None:
        part = self.make((3, 4))
        pz = self.pz(part)
        pz.log_prob(pz.sample((7,))).sum().backward()
        all_parameters_get_gradients(part)

    def test_it_starts_with_all_codes_alike(self) -> None:
        pz = self.pz(self.make((3, 4)))
        assert torch.allclose(pz.log_prob(pz.sample((20,))), torch.tensor(-4 * math.log(5)))

    def test_what_cannot_work_is_refused_in_one_line(self) -> None:
        part = self.make((3, 4))
        name = type(part).__name__
        with pytest.raises(ValueError, match=f"{name} .* needs one that has a codebook"):
            part(NO_CONTEXT)
        with pytest.raises(
            ValueError,
            match=f"{name} has 5 codes and the posterior's codebook 6; give both the same",
        ):
            part(NO_CONTEXT, VectorQuantised(X, (3, 4), codes=6))
        with pytest.raises(ValueError, match="codes is 0"):
            type(part)((3,), codes=0)


class TestAutoregressiveCodes(TestIndependentCodes):
    def make(self, z_shape: Shape) -> Prior:
        return AutoregressiveCodes(z_shape, codes=5)

    def test_moments_are_those_of_samples(self) -> None:
        """There is no formula for them."""
        with pytest.raises(NotImplementedError):
            self.pz(self.make((2,))).mean  # noqa: B018


def test_no_code_depends_on_a_later_one() -> None:
    prior = moved(AutoregressiveCodes((3, 2, 3), codes=5)).double()
    index = torch.randint(5, (4, 6))
    logits = prior.conditionals(index)
    for i in range(6):
        other = index.clone()
        other[:, i] = (index[:, i] + 1) % 5
        changed = (prior.conditionals(other) - logits).abs().amax((0, 2)) > 1e-12
        assert changed.tolist() == [False] * (i + 1) + [True] * (5 - i)


def test_a_shorter_beginning_has_the_same_conditionals() -> None:
    prior = moved(AutoregressiveCodes((3, 2, 3), codes=5)).double()
    index = torch.randint(5, (4, 6))
    assert torch.allclose(prior.conditionals(index[:, :3]), prior.conditionals(index)[:, :3])


def test_draws_have_the_conditionals_of_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept from position to position is what a pass over all of them computes."""
    torch.manual_seed(0)
    prior = moved(AutoregressiveCodes((3, 2, 3), codes=5)).double()
    asked: list[Tensor] = []
    categorical = torch.distributions.Categorical

    def remembering(logits: Tensor, validate_args: bool) -> torch.distributions.Categorical:
        asked.append(logits)
        return categorical(logits=logits, validate_args=validate_args)

    monkeypatch.setattr("lowerbound.priors.autoregressive_codes.Categorical", remembering)
    index = prior.drawn(7)
    assert index.shape == (7, 6)
    assert torch.allclose(torch.cat(asked, 1), prior.conditionals(index))


def test_it_learns_what_independent_codes_cannot() -> None:
    """Two positions that always agree: log 2 nats, where the product of the margins takes 2 log
    2.
    """
    torch.manual_seed(0)
    posterior = VectorQuantised(X, (1, 2), codes=2).eval()
    book = posterior.codebook()
    z = book.take(torch.tensor([[0, 0], [1, 1]]))
    rates = []
    for prior in (IndependentCodes((1, 2), codes=2), AutoregressiveCodes((1, 2), codes=2)):
        adam = torch.optim.Adam(prior.parameters(), lr=0.02)
        for _ in range(150):
            loss = -prior(Context(), posterior).log_prob(z).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        rates.append(loss.item())
    assert rates[0] == pytest.approx(2 * math.log(2), abs=0.01)
    assert rates[1] == pytest.approx(math.log(2), abs=0.05)


def test_a_transformer_that_cannot_be_is_refused() -> None:
    for setting, words in (
        ({"width": 10, "heads": 4}, "4 heads do not divide"),
        ({"layers": 0}, "layers is 0"),
    ):
        with pytest.raises(ValueError, match=words):
            lb.priors.AutoregressiveCodes((3,), codes=5, **setting)
