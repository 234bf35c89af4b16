"""p(x|z): its shapes and support, that it sums to one, its mean, and what y and a mask do to it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.draw import RateEstimator
from lowerbound.roles import Context, Likelihood
from lowerbound.shapes import Shape
from lowerbound.supports import contains
from tests.contracts.checks import (
    NO_CONTEXT,
    SHAPES,
    all_parameters_get_gradients,
    check_loss_gradients,
    moved,
    within,
)
from tests.contracts.part import PartContract, with_condition
from tests.quadrature import total_probability


class LikelihoodContract(PartContract):
    role = "likelihood"
    make: Callable[[Shape, Shape], Likelihood]

    scale_of_the_batch: ClassVar[bool] = False
    """Whether log_prob in training takes something from the batch that it scores; all else is the
    same in both modes.
    """

    @abstractmethod
    def quadrature(self, px: Distribution) -> tuple[Tensor, Tensor]:
        """Points and weights (n, *batch, *X) that integrate (sum) over the support, for each entry
        of x by itself.
        """

    @pytest.mark.parametrize("x_shape", SHAPES)
    @pytest.mark.parametrize("leading", [(5,), (7, 5), (2, 7, 5)])
    def test_batch_is_leading_and_event_is_x(self, x_shape: Shape, leading: Shape) -> None:
        px = self.make((3,), x_shape)(torch.randn(*leading, 3), NO_CONTEXT)
        assert px.batch_shape == leading
        assert px.event_shape == x_shape
        assert px.mean.shape == (*leading, *x_shape)

    @pytest.mark.parametrize("z_shape", SHAPES)
    def test_takes_any_latent_shape(self, z_shape: Shape) -> None:
        assert self.make(z_shape, (4,))(torch.randn(7, 5, *z_shape), NO_CONTEXT).batch_shape == (
            7,
            5,
        )

    @pytest.mark.parametrize("x_shape", SHAPES)
    def test_log_prob_sums_over_the_event(self, x_shape: Shape) -> None:
        part = self.make((3,), x_shape)
        px = part(torch.randn(7, 5, 3), NO_CONTEXT)
        x = px.sample()[0]
        log_px = part.log_prob(px, x, None)
        assert log_px.shape == (7, 5)
        assert torch.allclose(
            log_px, part.log_prob(px, x, torch.ones(x_shape)), rtol=1e-4, atol=1e-4
        )

    def test_samples_lie_in_the_support(self) -> None:
        part = self.make((3,), (4,))
        x = part(torch.randn(50, 5, 3), NO_CONTEXT).sample()
        assert bool(part.support.check(x).all())
        assert contains(part.support, part.support)

    def test_a_masked_value_changes_nothing(self) -> None:
        part = self.make((3,), (4,))
        px = part(torch.randn(7, 5, 3), NO_CONTEXT)
        x = px.sample()[0]
        mask = torch.tensor([1, 1, 0, 1])
        other = x.clone()
        other[:, 2] = torch.nan
        assert torch.equal(part.log_prob(px, x, mask), part.log_prob(px, other, mask))
        assert not torch.allclose(part.log_prob(px, x, mask), part.log_prob(px, x, None))

    def test_a_missing_value_is_marginalised_and_not_filled_in(self) -> None:
        """What is observed and what is not are scored apart: together they are the whole, and nan
        stays out of gradients.
        """
        part = self.make((3,), (4,)).eval()
        z = torch.randn(7, 5, 3)
        px = part(z, NO_CONTEXT)
        x, mask = px.sample()[0], torch.tensor([1, 1, 0, 1])
        apart = part.log_prob(px, x, mask) + part.log_prob(px, x, 1 - mask)
        assert torch.allclose(apart, part.log_prob(px, x, None), rtol=1e-4, atol=1e-4)
        x[:, 2] = torch.nan
        part.train()
        part.log_prob(px, x, mask).sum().backward()
        assert all(bool(p.grad.isfinite().all()) for p in part.parameters() if p.grad is not None)

    @pytest.mark.parametrize("x_shape", [(), (2,)])
    @pytest.mark.parametrize("learned", [False, True])
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-3)])
    def test_probabilities_sum_to_one(
        self, x_shape: Shape, learned: bool, dtype: torch.dtype, tolerance: float
    ) -> None:
        """Over all pairs of entries too: a mean over the entries, in place of their sum, is no
        density of the pair.
        """
        part = self.make((3,), x_shape).to(dtype).eval()
        px = (moved(part) if learned else part)(torch.randn(5, 3, dtype=dtype), NO_CONTEXT)
        total = total_probability(
            lambda x: part.log_prob(px, x, None), self.quadrature(px), x_shape
        )
        if part.is_density:
            assert torch.allclose(total, torch.ones(5, dtype=dtype), rtol=0, atol=tolerance)
        else:
            assert bool(((total - 1).abs() > 0.01).all()), (
                "a score that is normalised is a density: say so"
            )

    def test_mean_and_variance_are_those_of_the_density(self) -> None:
        part = moved(self.make((3,), ())).double().eval()
        if not part.is_density:
            pytest.skip("a score has no mean of its own")
        px = part(torch.randn(5, 3).double(), NO_CONTEXT)
        x, weights = self.quadrature(px)
        probability = part.log_prob(px, x, None).exp() * weights
        assert torch.allclose((probability * x).sum(0), px.mean, rtol=1e-6)
        assert torch.allclose((probability * (x - px.mean) ** 2).sum(0), px.variance, rtol=1e-5)

    @pytest.mark.parametrize("kl", ["auto", "sampled"])
    def test_gradients_of_the_loss_are_those_of_finite_differences(self, kl: RateEstimator) -> None:
        posterior = lb.posteriors.DiagonalNormal((4,), (3,))
        model = lb.VAE(lb.priors.StandardNormal((3,)), posterior, self.make((3,), (4,))).double()
        x = model.likelihood(torch.randn(5, 3).double(), NO_CONTEXT).sample()
        check_loss_gradients(model, lb.objectives.ELBO(kl=kl, samples=2), x)

    def test_training_and_evaluation_mean_the_same_distribution(self) -> None:
        part, z = moved(self.make((3,), (4,))), torch.randn(7, 5, 3)
        one, other = part.train()(z, NO_CONTEXT), part.eval()(z, NO_CONTEXT)
        assert torch.equal(one.mean, other.mean)
        assert torch.equal(one.stddev, other.stddev)
        x = one.sample()[0]
        scores = part.train().log_prob(one, x, None), part.eval().log_prob(other, x, None)
        assert torch.equal(*scores) != self.scale_of_the_batch

    def test_treats_draws_and_examples_separately(self) -> None:
        part, z = moved(self.make((3,), (4,))).double().eval(), torch.randn(7, 5, 3).double()
        px = part(z, NO_CONTEXT)
        x = px.sample()[0]
        log_px = part.log_prob(px, x, None)
        for k, b in ((0, 0), (6, 1), (3, 4)):
            alone = part.log_prob(part(z[k : k + 1, b : b + 1], NO_CONTEXT), x[b : b + 1], None)
            assert torch.allclose(log_px[k, b], alone.squeeze(), rtol=1e-10, atol=1e-10)

    def test_the_mean_is_the_mean_of_samples(self) -> None:
        px = self.make((3,), (2,))(torch.randn(3), NO_CONTEXT)
        x = px.sample((4000,))
        for d in range(2):
            assert within(x[:, d], px.mean[d])

    def test_gradients_reach_every_parameter(self) -> None:
        part = self.make((3,), (4,))
        px = part(torch.randn(7, 5, 3), NO_CONTEXT)
        part.log_prob(px, px.sample()[0], None).sum().backward()
        all_parameters_get_gradients(part)

    def test_describes_itself(self) -> None:
        self.check_describes_itself(self.make((3,), (4,)), z_shape=(3,), x_shape=(4,))

    @pytest.mark.parametrize("condition", [3, [2]])
    @pytest.mark.parametrize("z_shape", SHAPES)
    def test_may_be_conditioned_on_y(self, z_shape: Shape, condition: int | list[int]) -> None:
        """Built from its own settings with a condition; y is broadcast, matters, is asked for, and
        gets gradients.
        """
        part = with_condition(
            self.make(z_shape, (4,)), self.role, condition, x_shape=(4,), z_shape=z_shape
        )
        y = torch.tensor([0, 1, 2, 0, 1]) if condition == 3 else torch.randn(5, 2)
        z = torch.randn(2, 7, 5, *z_shape)
        px = part(z, Context(y=y))
        assert px.batch_shape == (2, 7, 5)
        alone = part(z[:1, 3:4, 2:3], Context(y=y[2:3]))
        assert torch.allclose(alone.mean.flatten(), px.mean[0, 3, 2], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(px.mean, part(z, Context(y=y.flip(0))).mean)
        x = px.sample()[0, 0]
        part.log_prob(px, x, None).sum().backward()
        all_parameters_get_gradients(part)
        with pytest.raises(ValueError, match=f"{type(part).__name__} is conditioned on y"):
            part(z, NO_CONTEXT)
        self.check_describes_itself(part, x_shape=(4,), z_shape=z_shape)
