"""The inverse autoregressive posterior: one pass down, an exact inverse, and what stands on it."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.distributions.bijections import Gated
from lowerbound.evaluation import annealed, evidence, information, refined
from lowerbound.roles import Context
from tests.contracts import PosteriorContract
from tests.known_models import Curved
from tests.quadrature import real_line
from tests.test_exact import linear, ppca

InverseAutoregressive = partial(lb.posteriors.InverseAutoregressive, hidden=(16,), context_size=5)


class TestInverseAutoregressive(PosteriorContract):
    make = staticmethod(InverseAutoregressive)
    tolerance = 1e-3

    def quadrature(self, qz: Distribution) -> tuple[Tensor, Tensor]:
        return real_line(qz, 401)


def test_the_density_is_that_of_the_change_of_variables() -> None:
    """log N(z_0) - log |det dz/dz_0| for each example, the Jacobian by automatic differentiation,
    and triangular steps.
    """
    part = InverseAutoregressive((4,), (3,), layers=3).double()
    with torch.no_grad():
        for p in part.parameters():
            p.mul_(2)
    x = torch.rand(5, 4).double()
    qz = part(x, Context())
    start = qz.base.sample()
    z, log_det = qz.bijection.generate(start)
    for b in range(5):
        alone = part(x[b : b + 1], Context()).bijection
        jacobian = torch.autograd.functional.jacobian(
            lambda noise, f=alone: f.generate(noise[None])[0][0], start[b]
        )
        expected = torch.linalg.slogdet(jacobian)[1]
        assert torch.allclose(log_det[b], expected, rtol=1e-8)
        assert torch.allclose(qz.log_prob(z)[b], qz.base.log_prob(start)[b] - expected, rtol=1e-8)
    one = InverseAutoregressive((4,), (3,), layers=1).double()(x[:1], Context()).bijection
    jacobian = torch.autograd.functional.jacobian(
        lambda noise: one.generate(noise[None])[0][0], start[0]
    )
    assert torch.equal(jacobian.triu(1), torch.zeros(3, 3).double())
    assert bool((jacobian.tril(-1).abs().sum() > 0).all())


def test_a_step_is_that_of_the_paper() -> None:
    """y = g x + (1 - g) m with g = sigmoid(s + 2), whose slope is held at 0.001 where the gate
    closes, in float32 too.
    """
    x, m, s = torch.randn(3, 50).double()
    g = torch.sigmoid(s + 2)
    y, log_det = Gated(m, s).call_and_ladj(x)
    assert torch.allclose(y, g * x + (1 - g) * m, atol=5e-3)
    assert torch.allclose(log_det, g.log(), atol=2e-2)
    closed = Gated(torch.tensor([3.0]), torch.tensor([-500.0]))
    y, log_det = closed.call_and_ladj(torch.tensor([7.0]))
    assert y.item() == pytest.approx(3.004)
    assert log_det.exp().item() == pytest.approx(1e-3)
    assert closed.inv(y).item() == pytest.approx(7, abs=1e-2)


def test_a_draw_costs_one_pass_and_its_density_nothing() -> None:
    part = InverseAutoregressive((4,), (3,), layers=2)
    passes = []
    for step in part.steps.transforms:
        step.hyper.register_forward_hook(lambda *_: passes.append(1))
    qz = part(torch.rand(5, 4), Context())
    z = qz.rsample((7,))
    qz.log_prob(z)
    assert len(passes) == 2
    qz.log_prob(z.clone())
    assert len(passes) == 2 + 2 * (3 + 1)  # entry by entry, and once for the determinant


def test_it_learns_of_x_by_the_context_too() -> None:
    part, z = InverseAutoregressive((4,), (3,)).double(), torch.randn(1, 3).double()
    h = torch.randn(2, 5).double()
    one, other = (part.steps(row[None]).call_and_ladj(z)[1] for row in h)
    assert not torch.allclose(one, other)


def trained(posterior: type | partial, steps: int = 400) -> tuple[Tensor, Tensor]:
    """The bound of a posterior fitted to the known model, and the evidence, of each example."""
    known, x, exact = ppca()
    part = posterior((6,), (2,), network=linear)
    model = lb.VAE(lb.priors.StandardNormal((2,)), part, known.likelihood).double()
    adam = torch.optim.Adam(part.parameters(), lr=1e-2)
    for step in range(steps):
        adam.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)
        loss = -model(x, samples=2).log_w.mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        return model(x, samples=50).log_w.mean(0), exact


@pytest.mark.parametrize(
    "posterior", [InverseAutoregressive, partial(lb.posteriors.Planar, layers=4)]
)
def test_the_bound_lies_below_the_evidence_and_above_that_of_a_diagonal_normal(
    posterior: partial,
) -> None:
    """The exact posterior is a normal with correlations, which a diagonal one misses and
    autoregressive steps do not.
    """
    bound, exact = trained(posterior)
    slack = bound - exact
    assert slack.mean() <= 4 * slack.std() / math.sqrt(len(slack))
    if posterior.func is lb.posteriors.Planar:
        assert slack.mean() > -2  # what a planar map gains on a normal with correlations is small
        return
    diagonal, _ = trained(lb.posteriors.DiagonalNormal)
    gain = bound - diagonal
    assert gain.mean() > 4 * gain.std() / math.sqrt(len(gain))


def curved(posterior: lb.roles.Posterior) -> tuple[lb.VAE, Tensor, Tensor]:
    """A model of one latent with a posterior of several modes, eight examples, and log p(x) by
    integration.
    """
    model = lb.VAE(lb.priors.StandardNormal((1,)), posterior, Curved((1,), (5,))).double()
    x, _ = model.sample_joint(8)
    z = torch.linspace(-10, 10, 20001, dtype=torch.float64)[:, None, None].expand(-1, 8, -1)
    with torch.no_grad():
        return model, x, torch.logsumexp(model.log_joint(x, (z,)), 0) + math.log(20 / 20000)


def test_weighting_and_annealing_find_the_integral() -> None:
    model, x, exact = curved(InverseAutoregressive((5,), (1,)))
    with torch.no_grad():
        weighted = evidence(model, x, samples=20_000)
    error = (weighted.log_terms + math.log(20_000) - exact).exp().std(0) / math.sqrt(20_000)
    assert bool(((weighted.log_marginal - exact).abs() < 5 * error).all())
    walked = annealed(model, x, chains=1000, temperatures=6, seed=0)
    ratio = (walked.log_w - exact).exp()
    assert bool(((ratio.mean(0) - 1).abs() < 4.5 * ratio.std(0) / math.sqrt(1000) + 1e-6).all())


@pytest.mark.parametrize("posterior", [InverseAutoregressive, lb.posteriors.Planar])
def test_refining_moves_q_uphill(posterior: partial | type) -> None:
    model, x, _ = curved(posterior((5,), (1,)))
    with torch.no_grad():
        before = model.eval()(x, samples=500).log_w.mean()
        with refined(model, model.posterior, x, steps=60):
            assert model(x, samples=500).log_w.mean() > before + 0.1


def test_information_and_a_prior_made_of_it_evaluate_it_elsewhere() -> None:
    posterior = InverseAutoregressive((4,), (2,))
    model = lb.VAE(
        lb.priors.VampPrior((2,), (4,), components=5), posterior, lb.likelihoods.Normal((2,), (4,))
    ).eval()
    x = torch.rand(30, 4)
    with torch.no_grad():
        bounds = information(model, x)
        z = model(x, samples=7).latents[0].z
        one_by_one = torch.stack(
            [posterior(u[None], Context()).log_prob(z) for u in model.prior.pseudo_inputs]
        )
        pz = model.prior(Context(), posterior)
    assert bounds is not None
    assert bounds.mutual_information.mean() <= math.log(30) + 1e-6
    assert torch.allclose(pz.log_prob(z), torch.logsumexp(one_by_one, 0) - math.log(5), atol=1e-4)


def test_path_gradients_are_the_ordinary_ones_in_expectation() -> None:
    known, x, _ = ppca()
    part = InverseAutoregressive((6,), (2,), layers=1, network=linear)
    model = lb.VAE(lb.priors.StandardNormal((2,)), part, known.likelihood).double()
    x = x[:20].repeat(100, 1)
    differences = []
    for seed in range(40):
        both = []
        for path in (True, False):
            torch.manual_seed(seed)
            loss = -model(x, samples=2, path_gradient=path).log_w.mean()
            both.append(
                torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(part.parameters()))])
            )
        differences.append(both[0] - both[1])
    difference = torch.stack(differences)
    assert int((difference.std(0) > 1e-4).sum()) > 50
    error = difference.std(0) / math.sqrt(len(difference))
    assert bool((difference.mean(0).abs() <= 5 * error + 1e-12).all())
