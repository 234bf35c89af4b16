"""A loss: its shapes and gradients, what it logs, and that a batch is no more than its examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

import lowerbound as lb
from lowerbound.draw import Draw
from lowerbound.objective import Objective, Step
from tests.contracts.checks import (
    all_parameters_get_gradients,
    check_loss_gradients,
    drawn_at,
    moved,
)
from tests.contracts.part import PartContract


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
        by_size = []
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
                by_size.append(
                    {
                        name: torch.stack(values)
                        for name, values in {**extra, **logged}.items()
                        if values
                    }
                )
        for name, small in by_size[0].items():
            large = by_size[1][name]
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
