"""q(z|x): its shapes, that it integrates to one, its gradients, and what y and a mask do to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.compatibility import EVALUABLE
from lowerbound.distributions import mean, stddev
from lowerbound.draw import RateEstimator
from lowerbound.roles import Context, Posterior, Prior
from lowerbound.shapes import Shape
from tests.contracts.checks import (
    NO_CONTEXT,
    SHAPES,
    all_parameters_get_gradients,
    check_loss_gradients,
    moved,
    seeded_draw,
)
from tests.contracts.part import PartContract, with_condition
from tests.quadrature import real_line, total_probability


class PosteriorContract(PartContract):
    role = "posterior"
    make: Callable[[Shape, Shape], Posterior]
    tolerance: ClassVar[float] = 1e-8
    """Of its integral: that of quadrature, which is coarser where a density has corners."""

    def prior(self, z_shape: Shape) -> Prior:
        """What it is composed with."""
        return lb.priors.StandardNormal(z_shape)

    @pytest.mark.parametrize("z_shape", SHAPES)
    @pytest.mark.parametrize("x_shape", SHAPES)
    def test_batch_is_b_and_event_is_z(self, x_shape: Shape, z_shape: Shape) -> None:
        qz = self.make(x_shape, z_shape)(torch.rand(5, *x_shape), NO_CONTEXT)
        assert qz.batch_shape == (5,)
        assert qz.event_shape == z_shape

    @pytest.mark.parametrize("leading", [(), (7,), (2, 7)])
    def test_is_evaluated_at_any_leading_dimensions(self, leading: Shape) -> None:
        part = self.make((4,), (3,))
        qz = part(torch.rand(5, 4), NO_CONTEXT)
        draw = qz.rsample if qz.has_rsample else qz.sample
        assert qz.log_prob(draw(leading)).shape == (*leading, 5)
        if EVALUABLE in part.capabilities:
            assert qz.log_prob(torch.randn(*leading, 5, 3)).shape == (*leading, 5)
        else:
            with pytest.raises(NotImplementedError, match="at its own draws alone"):
                qz.log_prob(torch.randn(*leading, 5, 3))

    def test_the_density_at_a_draw_is_that_at_its_values(self) -> None:
        """A draw may know its density; at the same numbers it is the same, and so is its gradient
        in the parameters.
        """
        part = self.make((4,), (3,)).double()
        if EVALUABLE not in part.capabilities:
            pytest.skip("its density is known at own draws alone")
        qz = part(torch.rand(5, 4).double(), NO_CONTEXT)
        z = (qz.rsample if qz.has_rsample else qz.sample)((7,))
        at_draw, at_values = qz.log_prob(z), qz.log_prob(z.view_as(z))
        assert torch.allclose(at_draw, at_values, rtol=1e-8)
        gradients = [
            torch.autograd.grad(log_q.sum(), list(part.parameters()), retain_graph=True)
            for log_q in (at_draw, at_values)
        ]
        assert all(
            torch.allclose(*pair, rtol=1e-6, atol=1e-8) for pair in zip(*gradients, strict=True)
        )

    def test_gradients_reach_every_parameter_through_the_draw(self) -> None:
        part = self.make((4,), (3,))
        qz = part.relaxed(part(torch.rand(5, 4), NO_CONTEXT))
        z = part.draw_latent(qz, 2, reparameterised=True, training=True).z
        (z.pow(2).sum() + qz.log_prob(z).sum()).backward()
        all_parameters_get_gradients(part)

    def quadrature(self, qz: Distribution) -> tuple[Tensor, Tensor]:
        """Points and weights (n, B, *Z) that integrate its density."""
        return real_line(qz)

    @pytest.mark.parametrize("z_shape", [(), (1,), (2,)])
    @pytest.mark.parametrize("learned", [False, True])
    def test_is_normalised(self, z_shape: Shape, learned: bool) -> None:
        part = self.make((4,), z_shape).double()
        if EVALUABLE not in part.capabilities:
            pytest.skip("its density is known at own draws alone")
        qz = (moved(part) if learned else part)(torch.rand(5, 4).double(), NO_CONTEXT)
        total = total_probability(qz.log_prob, self.quadrature(qz), z_shape)
        assert torch.allclose(total, torch.ones(5).double(), rtol=0, atol=self.tolerance)

    @pytest.mark.parametrize("kl", ["auto", "sampled"])
    def test_gradients_of_the_loss_are_those_of_finite_differences(self, kl: RateEstimator) -> None:
        model = lb.VAE(self.prior((3,)), self.make((4,), (3,)), lb.likelihoods.Normal((3,), (4,)))
        check_loss_gradients(
            model.double(), lb.objectives.ELBO(kl=kl, samples=2), torch.rand(5, 4).double()
        )

    def test_training_and_evaluation_mean_the_same_distribution(self) -> None:
        part, x = moved(self.make((4,), (3,))), torch.rand(5, 4)
        one, other = part.train()(x, NO_CONTEXT), part.eval()(x, NO_CONTEXT)
        assert torch.equal(mean(one), mean(other))
        assert torch.equal(stddev(one), stddev(other))

    def test_treats_examples_separately(self) -> None:
        if EVALUABLE not in self.make((4,), (3,)).capabilities:
            pytest.skip("its density is known at own draws alone")
        part, x, z = (
            moved(self.make((4,), (3,))).double().eval(),
            torch.rand(5, 4).double(),
            torch.randn(7, 5, 3).double(),
        )
        log_q = part(x, NO_CONTEXT).log_prob(z)
        for b in range(5):
            alone = part(x[b : b + 1], NO_CONTEXT).log_prob(z[:, b : b + 1])
            assert torch.allclose(log_q[:, b : b + 1], alone, rtol=1e-10, atol=1e-10)

    def test_a_masked_value_changes_nothing(self) -> None:
        """Whatever stands at a missing entry, nan included:
        ``self.standardizer.standardize(x, context.mask)`` sees to it.
        """
        part, x = moved(self.make((4,), (3,))).eval(), torch.rand(5, 4)
        z, context = torch.randn(7, 5, 3), Context(mask=torch.tensor([[1, 0, 1, 1]]).expand(5, 4))
        other = torch.where(context.mask == 1, x, torch.nan)
        if EVALUABLE not in part.capabilities:
            draws = []
            for each in (x, other):
                torch.manual_seed(1)
                draws.append(part(each, context).rsample())
            assert torch.equal(*draws)
            return
        log_q = part(x, context).log_prob(z)
        assert torch.equal(part(other, context).log_prob(z), log_q)
        assert not torch.allclose(part(x, NO_CONTEXT).log_prob(z), log_q)

    def test_refuses_x_of_another_shape(self) -> None:
        with pytest.raises(ValueError, match="does not end in the event shape"):
            self.make((4,), (3,))(torch.rand(5, 6), NO_CONTEXT)

    def test_describes_itself(self) -> None:
        self.check_describes_itself(self.make((4,), (3,)), x_shape=(4,), z_shape=(3,))

    @pytest.mark.parametrize("condition", [3, [2]])
    @pytest.mark.parametrize("x_shape", SHAPES)
    def test_may_be_conditioned_on_y(self, x_shape: Shape, condition: int | list[int]) -> None:
        """Built from its own settings with a condition; y is broadcast, matters, is asked for, and
        gets gradients.
        """
        part = with_condition(
            self.make(x_shape, (3,)), self.role, condition, x_shape=x_shape, z_shape=(3,)
        )
        y = torch.tensor([0, 1, 2, 0, 1]) if condition == 3 else torch.randn(5, 2)
        x, z = torch.rand(5, *x_shape), torch.randn(7, 5, 3)
        # its own draws, with the same noise, are what can be looked at
        if EVALUABLE not in part.capabilities:
            one, other = (seeded_draw(part(x, Context(y=labels))) for labels in (y, y.flip(0)))
            assert not torch.allclose(one, other)
            one.sum().backward()
            return
        log_q = part(x, Context(y=y)).log_prob(z)
        assert log_q.shape == (7, 5)
        for b in range(5):
            alone = part(x[b : b + 1], Context(y=y[b : b + 1])).log_prob(z[:, b : b + 1])
            assert torch.allclose(log_q[:, b : b + 1], alone, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(log_q, part(x, Context(y=y.flip(0))).log_prob(z))
        log_q.sum().backward()
        all_parameters_get_gradients(part)
        with pytest.raises(ValueError, match=f"{type(part).__name__} is conditioned on y"):
            part(x, NO_CONTEXT)
        self.check_describes_itself(part, x_shape=x_shape, z_shape=(3,))
