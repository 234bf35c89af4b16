"""One base test for each role: what every part must satisfy. A part's own test says how it is made.

A subclass gives ``make``, and whatever else its role's contract asks for; the tests come with the base class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.objective import Objective, Step
from lowerbound.parts import construct, describe
from lowerbound.roles import Context, Likelihood, Posterior, Prior
from lowerbound.shapes import Shape, numel
from lowerbound.supports import contains

SHAPES: list[Shape] = [(), (1,), (3,), (1, 4, 5), (3, 2, 2)]
NO_CONTEXT = Context()


def within(estimate: Tensor, truth: float | Tensor, errors: float = 4.0) -> bool:
    """Whether the mean of independent values lies within so many standard errors of the truth."""
    stderr = estimate.std() / len(estimate) ** 0.5
    return bool((estimate.mean() - truth).abs() <= errors * stderr + 1e-6)


def all_parameters_get_gradients(module: nn.Module) -> None:
    missing = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing, f"no gradient reaches {missing}"


class PartContract(ABC):
    """What a part of any role can do: say how it was made, and be made again from that."""

    role: ClassVar[str]

    def check_describes_itself(self, part: nn.Module, **shapes: Shape) -> None:
        again = construct(self.role, describe(part, self.role), **shapes)
        assert describe(again, self.role) == describe(part, self.role)
        again.load_state_dict(part.state_dict())


class PriorContract(PartContract):
    role = "prior"
    make: Callable[[Shape], Prior]

    @pytest.mark.parametrize("z_shape", SHAPES)
    def test_batch_is_empty_and_event_is_z(self, z_shape: Shape) -> None:
        pz = self.make(z_shape)(NO_CONTEXT)
        assert pz.event_shape == z_shape
        assert pz.batch_shape == ()

    @pytest.mark.parametrize("z_shape", SHAPES)
    def test_is_evaluated_at_any_leading_dimensions(self, z_shape: Shape) -> None:
        pz = self.make(z_shape)(NO_CONTEXT)
        assert pz.log_prob(torch.randn(7, 5, *z_shape)).shape == (7, 5)

    def test_is_normalised(self) -> None:
        pz = self.make((1,))(NO_CONTEXT)
        grid = torch.linspace(-30, 30, 60001)
        assert torch.trapezoid(pz.log_prob(grid[:, None]).exp(), grid).item() == pytest.approx(1, abs=1e-3)

    def test_describes_itself(self) -> None:
        self.check_describes_itself(self.make((3,)), z_shape=(3,))


class PosteriorContract(PartContract):
    role = "posterior"
    make: Callable[[Shape, Shape], Posterior]

    @pytest.mark.parametrize("z_shape", SHAPES)
    @pytest.mark.parametrize("x_shape", SHAPES)
    def test_batch_is_b_and_event_is_z(self, x_shape: Shape, z_shape: Shape) -> None:
        qz = self.make(x_shape, z_shape)(torch.rand(5, *x_shape), NO_CONTEXT)
        assert qz.batch_shape == (5,)
        assert qz.event_shape == z_shape

    @pytest.mark.parametrize("leading", [(), (7,), (2, 7)])
    def test_is_evaluated_at_any_leading_dimensions(self, leading: Shape) -> None:
        qz = self.make((4,), (3,))(torch.rand(5, 4), NO_CONTEXT)
        assert qz.log_prob(torch.randn(*leading, 5, 3)).shape == (*leading, 5)

    def test_gradients_reach_every_parameter_through_the_draw(self) -> None:
        part = self.make((4,), (3,))
        qz = part(torch.rand(5, 4), NO_CONTEXT)
        z = qz.rsample((2,))
        (z.pow(2).sum() + qz.log_prob(z).sum()).backward()
        all_parameters_get_gradients(part)

    def test_refuses_x_of_another_shape(self) -> None:
        with pytest.raises(ValueError, match="does not end in the event shape"):
            self.make((4,), (3,))(torch.rand(5, 6), NO_CONTEXT)

    def test_describes_itself(self) -> None:
        self.check_describes_itself(self.make((4,), (3,)), x_shape=(4,), z_shape=(3,))


class LikelihoodContract(PartContract):
    role = "likelihood"
    make: Callable[[Shape, Shape], Likelihood]

    @abstractmethod
    def total_probability(self, px: Distribution) -> Tensor:
        """The integral (sum) of the density over the support, for a scalar x; px has any batch shape."""

    @pytest.mark.parametrize("x_shape", SHAPES)
    @pytest.mark.parametrize("leading", [(5,), (7, 5), (2, 7, 5)])
    def test_batch_is_leading_and_event_is_x(self, x_shape: Shape, leading: Shape) -> None:
        px = self.make((3,), x_shape)(torch.randn(*leading, 3), NO_CONTEXT)
        assert px.batch_shape == leading
        assert px.event_shape == x_shape
        assert px.mean.shape == (*leading, *x_shape)

    @pytest.mark.parametrize("z_shape", SHAPES)
    def test_takes_any_latent_shape(self, z_shape: Shape) -> None:
        assert self.make(z_shape, (4,))(torch.randn(7, 5, *z_shape), NO_CONTEXT).batch_shape == (7, 5)

    @pytest.mark.parametrize("x_shape", SHAPES)
    def test_log_prob_sums_over_the_event(self, x_shape: Shape) -> None:
        part = self.make((3,), x_shape)
        px = part(torch.randn(7, 5, 3), NO_CONTEXT)
        x = px.sample()[0]
        log_px = part.log_prob(px, x, None)
        assert log_px.shape == (7, 5)
        assert torch.allclose(log_px, part.log_prob(px, x, torch.ones(x_shape)), rtol=1e-4, atol=1e-4)

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

    def test_probabilities_sum_to_one(self) -> None:
        part = self.make((3,), ())
        total = self.total_probability(part(torch.randn(5, 3), NO_CONTEXT))
        if part.is_density:
            assert torch.allclose(total, torch.ones(5), atol=1e-3)
        else:
            assert bool(((total - 1).abs() > 0.01).all()), "a score that is normalised is a density: say so"

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


class ObjectiveContract(PartContract):
    role = "objective"
    make: Callable[[], Objective]

    def draw(self, samples: int = 1) -> tuple[lb.VAE, object]:
        model = lb.VAE(
            prior=lb.priors.StandardNormal((2,)),
            posterior=lb.posteriors.DiagonalNormal((4,), (2,)),
            likelihood=lb.likelihoods.Normal((2,), (4,)),
        )
        return model, model(torch.rand(5, 4), samples=samples)

    def test_one_loss_for_each_example_and_gradients_for_every_parameter(self) -> None:
        objective = self.make()
        model, draw = self.draw(objective.samples)
        terms = objective.terms(draw, Step(0.5, 100))
        assert terms.loss.shape == (5,)
        assert terms.total.shape == ()
        terms.total.backward()
        all_parameters_get_gradients(model)
        all_parameters_get_gradients(objective)

    def test_logs_the_unweighted_elbo(self) -> None:
        objective = self.make()
        _, draw = self.draw(objective.samples)
        log = objective.terms(draw, Step(0.5, 100)).log
        assert torch.allclose(log["elbo"], -log["rate"] - log["distortion"])
        assert torch.allclose(log["distortion"], draw.distortion)

    def test_describes_itself(self) -> None:
        self.check_describes_itself(self.make())


class NetworkContract(ABC):
    make: Callable[[Shape, Shape], nn.Module]

    @pytest.mark.parametrize("in_shape", SHAPES)
    @pytest.mark.parametrize("out_shape", SHAPES)
    def test_maps_in_shape_to_out_shape(self, in_shape: Shape, out_shape: Shape) -> None:
        network = self.make(in_shape, out_shape)
        out = network(torch.rand(5, *in_shape))
        assert out.shape == (5, *out_shape)
        out.sum().backward()
        all_parameters_get_gradients(network)

    def test_treats_examples_separately(self) -> None:
        network = self.make((3,), (2,)).eval()
        x = torch.rand(5, 3)
        assert torch.allclose(network(x)[2:3], network(x[2:3]), atol=1e-6)

    def test_has_as_many_outputs_as_asked_for(self) -> None:
        assert numel(tuple(self.make((3,), (4, 5))(torch.rand(1, 3)).shape)) == 20
