"""Known truth: a linear VAE is probabilistic PCA, whose marginal is N(mu, W W' + sigma^2 I)
(Tipping and Bishop 1999).
"""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

import lowerbound as lb
from lowerbound.compatibility import conflict
from lowerbound.draw import Draw, Latent
from lowerbound.evaluation import evidence, log_marginal
from lowerbound.objective import Step
from lowerbound.roles import Context, Posterior
from tests.conftest import make_objective
from tests.contracts import asked, within

D, Z, N = 6, 2, 400
SIGMA = 0.5


class ExactPosterior(Posterior):
    """N(M^-1 W'(x - mu), sigma^2 M^-1) with M = W'W + sigma^2 I, its standard deviations times
    ``inflation``.
    """

    def __init__(self, weight: Tensor, bias: Tensor, variance: Tensor, inflation: float) -> None:
        super().__init__((D,), (Z,))
        m = weight.T @ weight + variance * torch.eye(Z, dtype=weight.dtype)
        self.matrix = nn.Parameter(torch.linalg.solve(m, weight.T))
        self.offset = nn.Parameter(-self.matrix.detach() @ bias)
        self.scale_tril = nn.Parameter(
            inflation * torch.linalg.cholesky(variance * torch.linalg.inv(m))
        )

    def forward(self, x: Tensor, context: Context) -> Distribution:
        return MultivariateNormal(
            x @ self.matrix.T + self.offset, scale_tril=self.scale_tril.tril(), validate_args=False
        )


class StandardNormal(lb.priors.StandardNormal):
    """The same prior as a multivariate normal, so that the pair has a closed-form KL."""

    def forward(self, context: Context, posterior: Posterior | None = None) -> Distribution:
        return MultivariateNormal(self.loc, scale_tril=torch.diag(self.scale), validate_args=False)


def linear(in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> nn.Module:
    return lb.networks.MLP(in_shape, out_shape, hidden=())


def ppca(inflation: float = 1.0) -> tuple[lb.VAE, Tensor, Tensor]:
    """A linear VAE in float64, data drawn from it, and their exact log p(x)."""
    likelihood = lb.likelihoods.Normal((Z,), (D,), scale=SIGMA, network=linear).double()
    layer = likelihood.net.layers[0]
    weight, bias = layer.weight.detach() * 3, layer.bias.detach()
    layer.weight.data.copy_(weight)
    # the scale as float32 rounds it, squared in float64: the truth must be that of this model
    variance = likelihood.log_scale.detach().exp() ** 2
    model = lb.VAE(
        StandardNormal((Z,)), ExactPosterior(weight, bias, variance, inflation), likelihood
    ).double()
    truth = MultivariateNormal(
        bias, weight @ weight.T + variance * torch.eye(D, dtype=torch.float64)
    )
    x = truth.sample((N,))
    return model, x, truth.log_prob(x)


def test_at_the_exact_posterior_every_weight_is_the_evidence() -> None:
    model, x, exact = ppca()
    with torch.no_grad():
        draw = model(x, samples=7)
    assert torch.allclose(draw.log_w, exact.expand(7, N), rtol=1e-8, atol=0)
    for samples in (1, 10, 333):
        assert torch.allclose(log_marginal(model, x, samples=samples), exact, rtol=1e-8, atol=0)


def test_at_the_exact_posterior_the_elbo_is_tight() -> None:
    model, x, exact = ppca()
    with torch.no_grad():
        sampled = lb.objectives.ELBO(kl="sampled").terms(model(x), Step(1, N)).loss
        closed = lb.objectives.ELBO(kl="closed_form").terms(model(x), Step(1, N)).loss
    assert torch.allclose(-sampled, exact, rtol=1e-8, atol=0)
    assert within(-closed - exact, 0.0)


def test_the_logged_elbo_rises_to_the_evidence_as_the_posterior_improves() -> None:
    elbos = []
    for inflation in (2.0, 1.5, 1.0):
        torch.manual_seed(0)
        model, x, exact = ppca(inflation)
        with torch.no_grad():
            log = lb.objectives.ELBO(samples=100).terms(model(x, samples=100), Step(1, N)).log
        elbos.append(float((log["elbo"] - exact).mean()))
    assert elbos[0] < elbos[1] < elbos[2]
    assert abs(elbos[2]) < 0.05


def test_with_an_inflated_posterior_the_bounds_are_ordered_and_close_at_rate_one_over_k() -> None:
    model, x, exact = ppca(inflation=1.5)
    elbo = log_marginal(model, x, samples=1, seed=0)
    iwae = {k: log_marginal(model, x, samples=k, seed=1) for k in (10, 20, 1000)}

    def gap(bound: Tensor) -> tuple[float, float]:
        difference = exact - bound
        return float(difference.mean()), float(difference.std() / math.sqrt(N))

    assert gap(elbo)[0] > gap(iwae[10])[0] > 0
    assert gap(iwae[1000])[0] < 4 * gap(iwae[1000])[1] + 2e-3
    # E[exact - L_K] = Var(w/p)/(2K) + O(1/K^2): twice the samples, half the gap
    (ten, ten_error), (twenty, twenty_error) = gap(iwae[10]), gap(iwae[20])
    error = math.hypot(twenty_error / ten, twenty * ten_error / ten**2)
    assert abs(twenty / ten - 0.5) < 4 * error + 0.05


def test_the_path_gradient_vanishes_at_the_exact_posterior() -> None:
    """Sticking the landing (Roeder, Wu and Duvenaud 2017): no variance where q is exact."""
    model, x, _ = ppca()
    sizes = {}
    for path_gradient in (False, True):
        model.zero_grad()
        torch.manual_seed(0)
        model(x, path_gradient=path_gradient).log_w.mean().backward()
        sizes[path_gradient] = (
            torch.cat([p.grad.flatten() for p in model.posterior.parameters()]).norm().item()
        )
    assert sizes[True] < 1e-8 * sizes[False]


def test_a_batch_norm_in_the_posterior_moves_once_with_path_gradients() -> None:
    def network(in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(4), lb.networks.MLP(in_shape, out_shape))

    model = lb.VAE(
        prior=lb.priors.StandardNormal((2,)),
        posterior=lb.posteriors.DiagonalNormal((4,), (2,), network=network),
        likelihood=lb.likelihoods.Normal((2,), (4,)),
    )
    model(torch.rand(8, 4), path_gradient=True)
    assert model.posterior.net[0].num_batches_tracked.item() == 1


def test_a_posterior_with_dropout_is_scored_with_the_dropout_it_was_drawn_with() -> None:
    def network(in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> nn.Module:
        return nn.Sequential(
            lb.networks.MLP(in_shape, (64,)), nn.Dropout(0.5), lb.networks.MLP((64,), out_shape)
        )

    model = lb.VAE(
        prior=lb.priors.StandardNormal((2,)),
        posterior=lb.posteriors.DiagonalNormal((4,), (2,), network=network),
        likelihood=lb.likelihoods.Normal((2,), (4,)),
    )
    x = torch.rand(8, 4)
    draws = []
    for path_gradient in (False, True):
        torch.manual_seed(0)
        draws.append(model(x, samples=3, path_gradient=path_gradient))
    assert torch.equal(draws[0].latents[0].z, draws[1].latents[0].z)
    assert torch.allclose(draws[0].log_qz, draws[1].log_qz)
    assert torch.equal(model.encode(x), model.encode(x))  # deterministic, in training mode too
    assert model.training


def test_where_no_gradient_is_kept_a_path_gradient_costs_nothing() -> None:
    model, x, _ = ppca(inflation=1.5)
    calls = []
    model.posterior.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    draws = []
    for enabled in (True, False):
        torch.manual_seed(0)
        with torch.set_grad_enabled(enabled):
            draws.append(model(x, samples=3, path_gradient=True))
    assert calls == [True, True, False]
    # some processors multiply by another kernel where no gradient is kept, which rounds otherwise
    assert torch.allclose(draws[0].log_w, draws[1].log_w, rtol=1e-5)


def test_the_joint_is_prior_times_likelihood() -> None:
    model, x, _ = ppca()
    draw = model(x, samples=3)
    assert torch.allclose(model.log_joint(x, (draw.latents[0].z,)), draw.log_px + draw.log_pz)


def test_dreams_have_the_marginal_covariance() -> None:
    model, _, _ = ppca()
    x, (z,) = model.sample_joint(20000)
    layer = model.likelihood.net.layers[0]
    assert z.shape == (20000, Z)
    centred = x - layer.bias
    covariance = layer.weight @ layer.weight.T + SIGMA**2 * torch.eye(D)
    for i in range(D):
        for j in range(i + 1):
            assert within(centred[:, i] * centred[:, j], covariance[i, j], errors=5)


@pytest.mark.parametrize("chunk", [1, 3, 10, 64])
def test_the_evidence_uses_exactly_k_samples_whatever_the_chunk(chunk: int) -> None:
    model, x, _ = ppca(inflation=1.5)
    counted = []
    with torch.no_grad():
        noisy = log_marginal(
            lambda *a: counted.append(a[2]) or model(*a), x[:5], samples=10, chunk=chunk
        )
    assert sum(counted) == 10
    assert noisy.shape == (5,)


@pytest.mark.parametrize("cached", [1, 64, 300, 10**6])
def test_examples_and_draws_are_cut_into_chunks_and_put_together_again(
    cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["lowerbound.evaluation.evidence"], "CACHED", cached)
    model, x, exact = ppca()
    asked = torch.zeros(7)

    def counted(x_here: Tensor, context: Context, samples: int) -> Draw:
        asked[int(context.index[0]) : int(context.index[-1]) + 1] += samples
        return model(x_here, context, samples)

    with torch.no_grad():
        found = evidence(counted, x[:7], Context(index=torch.arange(7)), samples=23)
    assert asked.tolist() == [23] * 7
    assert torch.allclose(
        found.log_terms, (exact[:7] - math.log(23)).expand(23, 7), rtol=1e-8
    )  # q is the posterior
    assert torch.allclose(found.log_marginal, exact[:7], rtol=1e-8)
    assert torch.allclose(found.rate, model(x[:7]).rate, rtol=1e-12)  # in closed form
    whole = evidence(model, x[:7], samples=20_000, chunk=20_000)
    assert torch.allclose(
        found.distortion,
        whole.distortion,
        atol=6 * found.log_terms.new_tensor(D / 23).sqrt().item(),
    )


def test_the_chunk_changes_nothing_but_rounding_given_the_same_noise() -> None:
    model, x, _ = ppca(inflation=1.5)
    with torch.no_grad():
        z = model(x, samples=12).latents[0].z
    parts = iter([])

    class Fixed(nn.Module):
        """The same model with its draws given."""

        def forward(self, x: Tensor, context: Context | None, samples: int) -> object:
            given = next(parts)
            qz, pz = model.posterior(x, Context()), model.prior(Context())
            px = model.likelihood(given, Context())
            latent = Latent(qz, pz, given, None)
            log_px = px.log_prob(x)
            return Draw((latent,), px, log_px, torch.full_like(log_px, -math.log(samples)))

    results = []
    for sizes in ([12], [5, 5, 2], [1] * 12):
        parts = iter(z.split(sizes))
        with torch.no_grad():
            results.append(evidence(Fixed(), x, None, 12, sizes[0]))
    for result in results[1:]:
        assert torch.allclose(result.log_marginal, results[0].log_marginal, rtol=1e-12)
        assert torch.allclose(result.rate, results[0].rate, rtol=1e-12)
        assert torch.allclose(result.distortion, results[0].distortion, rtol=1e-12)


def test_the_objective_is_a_bound_on_the_exact_evidence() -> None:
    """Every objective that says it is one, and what is logged as the elbo: below log p(x), the
    larger the better.
    """
    model, x, exact = ppca(inflation=1.3)
    every = [make_objective(name, Z).double() for name in lb.objectives.__all__]
    own = [objective for objective in every if conflict(objective, model.posterior) is None]
    for objective in (
        *own,
        lb.objectives.ELBO(beta=2.0),
        lb.objectives.ELBO(kl="sampled", samples=5),
    ):
        with torch.no_grad():
            terms = objective.terms(asked(model, objective, x), Step(1, N))
        bounds = [terms.log["elbo"]] + [-terms.loss] * objective.is_bound
        for bound in bounds:
            slack = bound - exact
            assert slack.mean() <= 4 * slack.std() / math.sqrt(N)
            assert slack.mean() > -5  # and no other quantity of the right sign


def test_a_factorised_normal_agrees_with_a_diagonal_multivariate_one() -> None:
    scale = torch.rand(3) + 0.1
    one = Independent(Normal(torch.zeros(3), scale), 1)
    other = MultivariateNormal(torch.zeros(3), scale_tril=torch.diag(scale))
    x = torch.randn(10, 3)
    assert torch.allclose(one.log_prob(x), other.log_prob(x), atol=1e-5)
