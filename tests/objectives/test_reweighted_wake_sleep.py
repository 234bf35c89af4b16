"""Reweighted wake-sleep: its contract, and its two gradients against sums over all codes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import lowerbound as lb
from lowerbound.distributions import states
from lowerbound.objective import Step, check_parts
from lowerbound.objectives import ReweightedWakeSleep
from lowerbound.roles import Context
from lowerbound.training.passes import Pass, joint_sample_for
from tests.contracts import ObjectiveContract, asked
from tests.known_models import drawing, finite, log_evidence

STEP = Step(0.5, 100)


class TestReweightedWakeSleep(ObjectiveContract):
    make = staticmethod(ReweightedWakeSleep)

    def test_refuses_a_draw_whose_score_is_no_density(self) -> None:
        _, draw = self.draw()
        self.make().check(draw)
        with pytest.raises(ValueError, match="ReweightedWakeSleep weighs draws .* no density; use"):
            self.make().check(replace(draw, is_density=False))


def flat(gradients: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients])


def split(model: lb.VAE) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters of p, and those of q."""
    return [*model.prior.parameters(), *model.likelihood.parameters()], list(
        model.posterior.parameters()
    )


def wake(model: lb.VAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """The exact gradients: of -log p(x) in p's parameters, and of -E_p(z|x)[log q(z|x)] in q's."""
    p, q = split(model)
    qz = model.posterior(x, Context())
    z = states(qz)[:, None].expand(-1, len(x), *model.z_shape)
    posterior = model.log_joint(x, (z,)).detach().softmax(0)
    of_p = torch.autograd.grad(-log_evidence(model, x).mean(), p)
    return flat(of_p), flat(torch.autograd.grad(-(posterior * qz.log_prob(z)).sum(0).mean(), q))


def sleep(model: lb.VAE) -> Tensor:
    """The exact gradient of -E_p(x, z)[log q(z|x)] in q's parameters, by the sum over every z and
    every x of five bits.
    """
    x = states(
        torch.distributions.Independent(torch.distributions.Bernoulli(torch.full((5,), 0.5)), 1)
    ).double()
    qz = model.posterior(x, Context())
    z = states(qz)[:, None].expand(-1, len(x), *model.z_shape)
    joint = model.log_joint(x, (z,)).detach().exp()
    assert torch.allclose(joint.sum(), torch.tensor(1.0).double())
    return flat(torch.autograd.grad(-(joint * qz.log_prob(z)).sum(), split(model)[1]))


def agrees(estimates: list[Tensor], exact: Tensor) -> bool:
    """Whether the mean lies within 4.5 standard errors of the truth in every entry (some dozens are
    looked at).
    """
    each = torch.stack(estimates)
    assert bool((each.std(0) > 0).any())
    return bool(((each.mean(0) - exact).abs() <= 4.5 * each.std(0) / len(each) ** 0.5 + 1e-9).all())


def test_over_all_codes_both_wake_gradients_are_exact() -> None:
    model = finite((2, 3))
    x = torch.bernoulli(torch.full((6, 5), 0.5)).double()
    p, q = split(model)
    loss = ReweightedWakeSleep().terms(asked(model, ReweightedWakeSleep(), x), STEP).total
    assert torch.allclose(-loss, log_evidence(model, x).mean(), rtol=1e-10)
    of_p, of_q = (
        flat(torch.autograd.grad(loss, parameters, retain_graph=True)) for parameters in (p, q)
    )
    exact_of_p, exact_of_q = wake(model, x)
    assert torch.allclose(of_p, exact_of_p, rtol=1e-8, atol=1e-12)
    assert torch.allclose(of_q, exact_of_q, rtol=1e-8, atol=1e-12)


def test_of_one_draw_p_has_the_gradient_of_the_elbo_in_mean_and_q_that_of_its_entropy() -> None:
    """At K = 1 every weight is 1, and both expectations over z ~ q are sums over its codes."""
    model = finite((3,))
    x = torch.bernoulli(torch.full((4, 5), 0.5)).double()
    p, q = split(model)
    elbo = lb.objectives.ELBO().terms(model(x), STEP).total
    exact = flat(torch.autograd.grad(elbo, p))
    drawn, objective, gradients, zero = (
        drawing(model, "sampled"),
        ReweightedWakeSleep(samples=1),
        [],
        [],
    )
    p, q = split(drawn)
    torch.manual_seed(0)
    for _ in range(60):
        loss = objective.terms(asked(drawn, objective, x.repeat(100, 1)), STEP).total
        gradients.append(flat(torch.autograd.grad(loss, p, retain_graph=True)))
        zero.append(flat(torch.autograd.grad(loss, q)))
    assert agrees(gradients, exact)
    assert agrees(
        zero, torch.zeros_like(zero[0])
    )  # E_q[d log q] = 0: one draw teaches q nothing awake


def test_with_many_draws_the_wake_gradients_tend_to_the_exact_ones() -> None:
    model = finite((3,))
    x = torch.bernoulli(torch.full((4, 5), 0.5)).double()
    exact = torch.cat(wake(model, x))
    drawn = drawing(model, "sampled")
    errors = []
    for samples in (3, 30, 3000):
        objective = ReweightedWakeSleep(samples)
        torch.manual_seed(0)
        loss = objective.terms(asked(drawn, objective, x.repeat(8, 1)), STEP).total
        errors.append(
            float(
                (
                    flat(torch.autograd.grad(loss, [*split(drawn)[0], *split(drawn)[1]])) - exact
                ).norm()
            )
        )
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.03 * exact.norm()


def test_asleep_the_gradient_of_q_is_in_mean_that_over_all_that_the_model_can_dream() -> None:
    model = finite((3,))
    exact, gradients, drawn = sleep(model), [], drawing(model, "sampled")
    objective = ReweightedWakeSleep(phase="sleep")
    x = torch.zeros(400, 5).double()
    torch.manual_seed(0)
    for _ in range(60):
        total, log, _ = Pass(drawn, objective)(x, {}, 0.5, 100)
        gradients.append(flat(torch.autograd.grad(total, split(drawn)[1])))
        assert torch.equal(log["loss"], -log["iwae"])
    assert agrees(gradients, exact)


def test_both_is_half_of_each() -> None:
    model = finite((3,))
    x = torch.bernoulli(torch.full((6, 5), 0.5)).double()
    gradients = {}
    for phase in ("wake", "sleep", "both"):
        torch.manual_seed(0)
        loss = Pass(model, ReweightedWakeSleep(phase=phase))(x, {}, 0.5, 100).total
        gradients[phase] = flat(torch.autograd.grad(loss, split(model)[1]))
    assert torch.allclose(
        gradients["both"], (gradients["wake"] + gradients["sleep"]) / 2, rtol=1e-8
    )
    assert not torch.allclose(gradients["wake"], gradients["sleep"])


def test_no_gradient_passes_through_continuous_draws() -> None:
    """Of q that is -sum_k v_k d log q(z_k|x) at fixed z_k, and of p that of the bound."""
    model = lb.VAE(
        lb.priors.Normal((2,)),
        lb.posteriors.DiagonalNormal((4,), (2,)),
        lb.likelihoods.Normal((2,), (4,)),
    ).double()
    objective, x = ReweightedWakeSleep(samples=7), torch.rand(5, 4).double()
    draw = asked(model, objective, x)
    z = draw.latents[0].z
    assert not z.requires_grad
    gradients = torch.autograd.grad(objective.terms(draw, STEP).total, list(model.parameters()))
    log_joint = model.log_joint(x, (z,))
    log_q = model.log_posterior(x, (z,))
    weights = (log_joint - log_q).detach().softmax(0)
    by_hand = -(weights * (log_joint + log_q)).sum(0).mean()
    expected = torch.autograd.grad(by_hand, list(model.parameters()))
    assert torch.allclose(flat(gradients), flat(expected), rtol=1e-8, atol=1e-12)


def test_dreams_are_asked_for_only_where_they_are_used() -> None:
    assert [
        ReweightedWakeSleep(phase=phase).needs_joint_sample for phase in ("wake", "sleep", "both")
    ] == [False, True, True]
    assert not lb.objectives.ELBO().needs_joint_sample
    _, draw = TestReweightedWakeSleep().draw()
    with pytest.raises(
        ValueError,
        match=(
            "phase 'sleep' learns from joint samples of "
            "the model, and this step has no joint sample"
        ),
    ):
        ReweightedWakeSleep(phase="sleep").terms(draw, STEP)


def test_a_dream_moves_no_statistics_and_teaches_p_nothing() -> None:
    def network(in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.BatchNorm1d(in_shape[0]), lb.networks.MLP(in_shape, out_shape)
        )

    model = lb.VAE(
        lb.priors.Bernoulli((3,)),
        lb.posteriors.Bernoulli((4,), (3,), draws="sampled", network=network),
        lb.likelihoods.Bernoulli((3,), (4,), network=network),
    )
    before = {name: value.clone() for name, value in model.named_buffers()}
    joint_sample = joint_sample_for(model, 20, Context())
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert model.training
    assert model.likelihood.training
    assert joint_sample.x.shape == (20, 4)
    assert joint_sample.log_q.shape == (20,)
    joint_sample.log_q.sum().backward()
    assert all(p.grad is not None for p in model.posterior.parameters())
    assert all(p.grad is None for p in model.likelihood.parameters())


@pytest.mark.parametrize(
    ("prior", "words"),
    [
        (
            lb.priors.VampPrior((2,), (4,), components=3),
            "teaches p and q apart, and VampPrior is made of q; use ELBO, or",
        ),
    ],
)
def test_what_it_cannot_teach_is_refused(prior: lb.priors.VampPrior, words: str) -> None:
    model = lb.VAE(
        prior, lb.posteriors.DiagonalNormal((4,), (2,)), lb.likelihoods.Normal((2,), (4,))
    )
    with pytest.raises(ValueError, match=words):
        check_parts(ReweightedWakeSleep(), model)


@pytest.mark.parametrize("settings", [{"samples": 0}, {"phase": "rem"}])
def test_refuses_what_makes_no_sense(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="is"):
        ReweightedWakeSleep(**settings)
