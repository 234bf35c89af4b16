"""One base test for each role: what every part must satisfy. A part's own test says how it is made.

A subclass gives ``make``, and whatever else its role's contract asks for; the tests come with the
base class.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.compatibility import EVALUABLE
from lowerbound.config.parts import construct, describe
from lowerbound.distributions import mean, stddev
from lowerbound.distributions.kl import closed_form_kl
from lowerbound.draw import Draw, Latent, RateEstimator
from lowerbound.objective import Objective, Step, Terms
from lowerbound.roles import Context, Likelihood, Posterior, Prior
from lowerbound.shapes import Shape, numel
from lowerbound.supports import contains
from lowerbound.units import Standardizer

SHAPES: list[Shape] = [(), (1,), (3,), (1, 4, 5), (3, 2, 2)]
NO_CONTEXT = Context()


def within(estimate: Tensor, truth: float | Tensor, errors: float = 4.0) -> bool:
    """Whether the mean of independent values lies within so many standard errors of the truth."""
    stderr = estimate.std() / len(estimate) ** 0.5
    return bool((estimate.mean() - truth).abs() <= errors * stderr + 1e-6)


def all_parameters_get_gradients(module: nn.Module) -> None:
    missing = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing, f"no gradient reaches {missing}"


def moved(part: nn.Module) -> nn.Module:
    """The part somewhere else than where it starts, in units that are not those of [0, 1]: what
    holds only there is luck.
    """
    with torch.no_grad():
        for p in part.parameters():
            p.mul_(3).add_(0.2 * torch.randn_like(p) / (p.shape[-1] ** 0.5 if p.ndim > 1 else 1))
        for module in part.modules():
            if isinstance(module, Standardizer):
                module.learn(100 + 50 * torch.randn(20, *module.loc.shape))
    return part


def real_line(distribution: Distribution, n: int = 161) -> tuple[Tensor, Tensor]:
    """Points and weights (n, *batch, *event) of the trapezoidal rule ten standard deviations to
    each side of the mean.

    On a normal density its error is far below rounding: exp(-2 pi^2 / h^2) with h = 1/8 of a
    standard deviation.
    """
    centre, scale = mean(distribution), stddev(distribution)
    grid = torch.linspace(-10, 10, n, dtype=centre.dtype).reshape(n, *[1] * centre.ndim)
    return centre + grid * scale, (20 / (n - 1) * scale).expand(n, *centre.shape)


def kinked(distribution: Distribution, n: int = 40) -> tuple[Tensor, Tensor]:
    """Points and weights (n, *batch, *event) of Gauss-Laguerre rules to both sides of the mean,
    where a Laplace bends.

    Exact for a polynomial of degree n - 1 to each side times exp(-|x - mean| sqrt(2) / stddev).
    """
    points, weights = np.polynomial.laguerre.laggauss(n // 2)
    weights = weights * np.exp(points)
    steps, each = everywhere(distribution, np.r_[-points, points], np.r_[weights, weights])
    scale = distribution.stddev / 2**0.5
    return distribution.mean + steps * scale, each * scale


def unit_interval(distribution: Distribution, n: int = 64) -> tuple[Tensor, Tensor]:
    """Points and weights (n, *batch, *event) of the Gauss-Legendre rule on [0, 1], exact to degree
    2n - 1.
    """
    points, weights = np.polynomial.legendre.leggauss(n)
    return everywhere(distribution, 0.5 * (points + 1), 0.5 * weights)


def everywhere(
    distribution: Distribution, points: object, weights: object
) -> tuple[Tensor, Tensor]:
    """The same points and weights (n,) for every entry."""
    shape = distribution.mean.shape
    one, other = (
        torch.as_tensor(v, dtype=distribution.mean.dtype)
        .reshape(-1, *[1] * len(shape))
        .expand(-1, *shape)
        for v in (points, weights)
    )
    return one, other


def total_probability(
    log_prob: Callable[[Tensor], Tensor], rule: tuple[Tensor, Tensor], event: Shape
) -> Tensor:
    """The integral (sum) of a density over events of shape () or (1,), or over all pairs of entries
    for (2,).
    """
    x, weights = rule
    if numel(event) == 1:
        return (
            log_prob(x).exp() * weights.reshape(weights.shape[: weights.ndim - len(event)])
        ).sum(0)
    one, other = (v.movedim(-1, 0) for v in (x, weights))
    pairs = torch.stack(torch.broadcast_tensors(one[0][:, None], one[1][None]), -1)
    return (log_prob(pairs).exp() * other[0][:, None] * other[1][None]).sum((0, 1))


def check_gradients(loss: Callable[[], Tensor], *modules: nn.Module) -> None:
    """The gradient of each parameter is what central differences say, in float64, along a random
    direction for each.

    ``loss`` must fix its own noise. At a step of 1e-6 the difference is off by about 1e-12 in its
    third derivative, and by 1e-10 of the loss in rounding.
    """
    named = [
        (name, p) for module in modules for name, p in module.named_parameters() if p.requires_grad
    ]
    value = loss()
    gradients = torch.autograd.grad(value, [p for _, p in named])
    generator, step, size = torch.Generator().manual_seed(1), 1e-6, max(1.0, abs(value.item()))
    for (name, p), gradient in zip(named, gradients, strict=True):
        assert p.dtype == torch.float64
        direction = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        direction /= direction.norm()
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                p.add_(sign * step * direction)
                ends.append(loss().item())
                p.sub_(sign * step * direction)
        expected = (ends[0] - ends[1]) / (2 * step)
        found = (gradient * direction).sum().item()
        assert abs(found - expected) <= 1e-5 * abs(expected) + 1e-8 * size, (
            f"{name}: {found}, not {expected}"
        )


def asked(model: lb.VAE, objective: Objective, x: Tensor) -> Draw:
    """The draw that an objective asks for."""
    return model(x, None, objective.samples, objective.path_gradient, objective.reparameterised)


def check_loss_gradients(model: lb.VAE, objective: Objective, x: Tensor) -> None:
    """The loss with fixed noise, in the parameters of every part; and the objective's own, in the
    objective's.

    An objective that asks for path gradients, or for draws that stay where they are, declares that
    the posterior's are not those of its value: of it all other parameters are compared.
    """

    def terms() -> Terms:
        torch.manual_seed(7)
        return objective(asked(model, objective, x), Step(0.5, 100))

    elsewhere = objective.path_gradient or not objective.reparameterised
    parts = (model.prior, model.likelihood) if elsewhere else (model,)
    if list(objective.parameters()):
        check_gradients(lambda: terms().total, *parts)
        check_gradients(lambda: terms().own_loss, objective)
    else:
        check_gradients(lambda: terms().total, *parts)


def drawn_at(model: lb.VAE, x: Tensor, z: Tensor) -> Draw:
    """What the model draws where its noise is such that z (K, B, *Z) comes out."""
    qz, px = model.posterior(x, NO_CONTEXT), model.likelihood(z, NO_CONTEXT)
    pz = model.prior(NO_CONTEXT, model.posterior)
    latent = Latent(qz, pz, z, closed_form_kl(qz, pz))
    log_px = model.likelihood.log_prob(px, x, None)
    return Draw((latent,), px, log_px, torch.full_like(log_px.detach(), -math.log(len(z))))


def moments(distribution: Distribution, rule: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance of both entries of a pair, each (2,): by the formula, or by integration
    where there is none.
    """
    try:
        return distribution.mean.detach(), distribution.variance.detach()
    except NotImplementedError:
        z, weights = rule
        pairs = torch.stack(torch.broadcast_tensors(z[:, None, 0], z[None, :, 1]), -1)
        each = (distribution.log_prob(pairs).exp() * weights[:, None, 0] * weights[None, :, 1])[
            ..., None
        ].detach()
        centre = (each * pairs).sum((0, 1))
        return centre, (each * (pairs - centre) ** 2).sum((0, 1))


def seeded_draw(distribution: Distribution) -> Tensor:
    """Seven draws, always of the same noise."""
    torch.manual_seed(0)
    return distribution.rsample((7,))


def given_y(part: nn.Module, role: str, condition: int | list[int], **shapes: Shape) -> Any:
    """The same part with another condition; one that has no such setting is skipped."""
    settings = describe(part, role)
    if "condition" not in settings:
        pytest.skip("it cannot be conditioned on y")
    own = [type(part).__module__.split(".")[0]]
    return construct(role, settings | {"condition": condition}, own, **shapes)


class PartContract(ABC):
    """What a part of any role can do: say how it was made, and be made again from that."""

    role: ClassVar[str]

    def check_describes_itself(self, part: nn.Module, **shapes: Shape) -> None:
        own = [
            type(part).__module__.split(".")[0]
        ]  # a part of somebody else's package is found by its path
        again = construct(self.role, describe(part, self.role), own, **shapes)
        assert describe(again, self.role) == describe(part, self.role)
        again.load_state_dict(part.state_dict())


class PriorContract(PartContract):
    """``make`` may ask for data of shape (4,)."""

    role = "prior"
    make: Callable[[Shape], Prior]
    tolerance: ClassVar[float] = 1e-8
    """Of its integral: that of quadrature, which is coarser where a density has corners."""

    def posterior(self, z_shape: Shape) -> Posterior:
        """What it is composed with."""
        return lb.posteriors.DiagonalNormal((4,), z_shape)

    def pz(self, part: Prior) -> Distribution:
        """What the part gives; a prior that is made of the posterior is handed one here."""
        return part(NO_CONTEXT)

    @pytest.mark.parametrize("z_shape", SHAPES)
    def test_batch_is_empty_and_event_is_z(self, z_shape: Shape) -> None:
        pz = self.pz(self.make(z_shape))
        assert pz.event_shape == z_shape
        assert pz.batch_shape == ()

    @pytest.mark.parametrize("z_shape", SHAPES)
    def test_is_evaluated_at_any_leading_dimensions(self, z_shape: Shape) -> None:
        pz = self.pz(self.make(z_shape))
        assert pz.log_prob(torch.randn(7, 5, *z_shape)).shape == (7, 5)

    def quadrature(self, pz: Distribution) -> tuple[Tensor, Tensor]:
        """Points and weights (n, *Z) that integrate its density."""
        return real_line(pz)

    @pytest.mark.parametrize("z_shape", [(), (1,), (2,)])
    @pytest.mark.parametrize("learned", [False, True])
    def test_is_normalised(self, z_shape: Shape, learned: bool) -> None:
        part = self.make(z_shape).double()
        pz = self.pz(moved(part) if learned else part)
        total = total_probability(pz.log_prob, self.quadrature(pz), z_shape)
        assert total.item() == pytest.approx(1, abs=self.tolerance)

    def test_moments_are_those_of_samples(self) -> None:
        pz = self.pz(moved(self.make((2,)).double()))
        z = pz.sample((20_000,))
        centre, variance = moments(pz, self.quadrature(pz))
        for d in range(2):
            assert within(z[:, d], centre[d])
            assert within((z[:, d] - centre[d]) ** 2, variance[d])

    @pytest.mark.parametrize("kl", ["auto", "sampled"])
    def test_gradients_of_the_loss_are_those_of_finite_differences(self, kl: RateEstimator) -> None:
        posterior, likelihood = self.posterior((3,)), lb.likelihoods.Normal((3,), (4,))
        model = lb.VAE(moved(self.make((3,))), posterior, likelihood).double()
        check_loss_gradients(model, lb.objectives.ELBO(kl=kl, samples=2), torch.rand(5, 4).double())

    def test_describes_itself(self) -> None:
        self.check_describes_itself(self.make((3,)), x_shape=(4,), z_shape=(3,))


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
        own, again = qz.log_prob(z), qz.log_prob(z.view_as(z))
        assert torch.allclose(own, again, rtol=1e-8)
        gradients = [
            torch.autograd.grad(v.sum(), list(part.parameters()), retain_graph=True)
            for v in (own, again)
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
        part = given_y(
            self.make(x_shape, (3,)), self.role, condition, x_shape=x_shape, z_shape=(3,)
        )
        y = torch.tensor([0, 1, 2, 0, 1]) if condition == 3 else torch.randn(5, 2)
        x, z = torch.rand(5, *x_shape), torch.randn(7, 5, 3)
        if (
            EVALUABLE not in part.capabilities
        ):  # its own draws, with the same noise, are what can be looked at
            one, other = (seeded_draw(part(x, Context(y=own))) for own in (y, y.flip(0)))
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
        part = given_y(
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


class ObjectiveContract(PartContract):
    role = "objective"
    make: Callable[[], Objective]
    is_a_mean: ClassVar[bool] = True
    """Whether the model's loss is a mean over the examples of a batch, each by itself."""

    def draw(
        self, samples: int = 1, path_gradient: bool = False, reparameterised: bool = True
    ) -> tuple[lb.VAE, Draw]:
        model = lb.VAE(
            prior=lb.priors.StandardNormal((2,)),
            posterior=lb.posteriors.DiagonalNormal((4,), (2,)),
            likelihood=lb.likelihoods.Normal((2,), (4,)),
        )
        return model, model(
            torch.rand(5, 4),
            samples=samples,
            path_gradient=path_gradient,
            reparameterised=reparameterised,
        )

    def test_one_loss_for_each_example_and_gradients_for_every_parameter(self) -> None:
        objective = self.make()
        model, draw = self.draw(
            objective.samples, objective.path_gradient, objective.reparameterised
        )
        terms = objective.terms(draw, Step(0.5, 100))
        assert terms.loss.shape == (5,)
        assert terms.total.shape == ()
        terms.both.backward()
        all_parameters_get_gradients(model)
        all_parameters_get_gradients(objective)

    def test_neither_loss_reaches_the_others_parameters(self) -> None:
        objective = self.make()
        model, draw = self.draw(objective.samples, objective.path_gradient)
        terms = objective.terms(draw, Step(0.5, 100))
        for loss, module in ((terms.total, objective), (terms.own_loss, model)):
            parameters = list(module.parameters())
            assert (terms.own_loss is None) == (not list(objective.parameters()))
            if loss is not None and parameters:
                reached = torch.autograd.grad(
                    loss, parameters, retain_graph=True, allow_unused=True
                )
                assert all(gradient is None for gradient in reached)

    def test_logs_the_unweighted_elbo(self) -> None:
        objective = self.make()
        _, draw = self.draw(objective.samples)
        log = objective.terms(draw, Step(0.5, 100)).log
        assert torch.allclose(log["elbo"], -log["rate"] - log["distortion"])
        assert torch.allclose(log["distortion"], draw.distortion)

    def test_what_a_part_asks_for_is_added_to_the_loss_or_refused(self) -> None:
        """A penalty counts in full, whatever is made of the bound."""
        objective = self.make()
        _, draw = self.draw(objective.samples, objective.path_gradient)
        penalties = {"one": torch.rand(5), "other": torch.rand(5)}
        penalised = replace(draw, penalties=penalties)
        try:
            objective.check(penalised)
        except ValueError as error:
            # either is right, and which one is the objective's to say
            assert "one, other" in str(error)  # noqa: PT017
            return
        before, after = (objective(each, Step(0.5, 100)) for each in (draw, penalised))
        assert torch.allclose(
            after.loss - before.loss, penalties["one"] + penalties["other"], atol=1e-4
        )
        assert after.log.keys() == before.log.keys()

    def test_gradients_of_the_loss_are_those_of_finite_differences(self) -> None:
        objective = self.make().double()
        model, _ = self.draw()
        check_loss_gradients(model.double(), objective, torch.rand(5, 4).double())

    def terms_at(self, rows: list[int], draws: list[int]) -> list[Tensor]:
        """Loss, total and gradients for these examples and draws out of one batch with one
        noise.
        """
        torch.manual_seed(0)
        objective = self.make().double()
        model = self.draw()[0].double()
        x, z = torch.rand(6, 4).double(), torch.randn(4, 6, 2).double()
        terms = objective.terms(drawn_at(model, x[rows], z[draws][:, rows]), Step(0.5, 100))
        gradients = torch.autograd.grad(terms.total, list(model.parameters()), allow_unused=True)
        gradient = torch.cat([torch.zeros(0) if g is None else g.flatten() for g in gradients])
        return [terms.loss, terms.total, gradient]

    def test_the_order_of_examples_and_draws_changes_nothing(self) -> None:
        loss, total, gradient = self.terms_at([0, 1, 2, 3, 4, 5], [0, 1, 2, 3])
        order = [3, 0, 5, 1, 4, 2]
        for draws in ([0, 1, 2, 3], [2, 3, 1, 0]):
            again = self.terms_at(order, draws)
            assert torch.allclose(again[0], loss[order], rtol=1e-10)
            assert torch.allclose(again[1], total, rtol=1e-10)
            assert torch.allclose(again[2], gradient, rtol=1e-8, atol=1e-12)

    def test_a_statistic_of_the_batch_does_not_grow_with_it(self) -> None:
        """What compares examples with each other has another value in another batch, and in mean
        nearly the same.
        """
        objective = self.make().double()
        if not objective.batch_statistics:
            pytest.skip("its loss is a mean over examples, which is tested exactly")
        model = self.draw()[0].double()
        found = []
        with torch.no_grad():
            moved(model.posterior.net)  # codes that are neither the prior's nor independent
            for size in (16, 64):
                terms = [
                    objective.terms(model(torch.rand(size, 4).double()), Step(0.5, 1000))
                    for _ in range(300)
                ]
                extra = {
                    "total": [t.total for t in terms],
                    "own": [t.own_loss for t in terms if t.own_loss is not None],
                }
                logged = {name: [t.log[name].mean() for t in terms] for name in terms[0].log}
                found.append(
                    {
                        name: torch.stack(values)
                        for name, values in {**extra, **logged}.items()
                        if values
                    }
                )
        for name, small in found[0].items():
            large = found[1][name]
            error = (small.var() / len(small) + large.var() / len(large)).sqrt()
            # the logarithm of an unbiased estimate has a bias, which a batch of 16 and one of 64 do
            # not share
            assert (
                small.mean() - large.mean()
            ).abs() <= 4 * error + 0.1 * large.mean().abs().clamp(min=0.1), name

    def test_the_loss_does_not_grow_with_the_batch(self) -> None:
        """Every example twice: the same mean, hence the same step at the same learning rate."""
        if not self.is_a_mean:
            pytest.skip("tested in mean: an example and its copy are no two examples")
        _, total, gradient = self.terms_at([0, 1, 2], [0, 1])
        _, twice, same = self.terms_at([0, 1, 2, 0, 1, 2], [0, 1])
        assert torch.allclose(twice, total, rtol=1e-10)
        assert torch.allclose(same, gradient, rtol=1e-8, atol=1e-12)

    def test_a_batch_is_the_mean_of_its_parts(self) -> None:
        _, draw = self.draw(self.make().samples)
        if not self.is_a_mean or self.make().terms(draw, Step(0.5, 100)).batch_loss is not None:
            pytest.skip("a statistic of the batch is none of its parts")
        whole, large, small = (
            self.terms_at(rows, [0, 1]) for rows in ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3], [4, 5])
        )
        for all_of_it, one, other in zip(whole[1:], large[1:], small[1:], strict=True):
            assert torch.allclose(all_of_it, (4 * one + 2 * other) / 6, rtol=1e-8, atol=1e-12)

    def test_describes_itself(self) -> None:
        self.check_describes_itself(self.make(), z_shape=(2,))


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
