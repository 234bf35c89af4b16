"""A prior that is made of the posterior: what it is exactly, where it starts, and that nothing else
notices.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from lowerbound.evaluation import annealed, evidence, information, refined
from lowerbound.objective import Step
from lowerbound.roles import Context, Posterior, Prior
from lowerbound.shapes import Shape
from tests.contracts import PriorContract, all_parameters_get_gradients
from tests.known_models import Curved
from tests.quadrature import real_line
from tests.training.test_fit import Stopping, quiet, weights

X = (4,)
VampPrior, DiagonalNormal, FullNormal = (
    lb.priors.VampPrior,
    lb.posteriors.DiagonalNormal,
    lb.posteriors.FullNormal,
)


class TestVampPrior(PriorContract):
    family: type[Posterior] = DiagonalNormal

    def make(self, z_shape: Shape) -> Prior:
        return VampPrior(z_shape, X, components=10)

    def pz(self, part: Prior) -> Distribution:
        posterior = self.family(X, part.z_shape).to(part.free)
        posterior.standardizer.load_state_dict(part.standardizer.state_dict())
        return part(Context(), posterior)

    def quadrature(self, pz: Distribution) -> tuple[Tensor, Tensor]:
        return real_line(pz, 641)  # a component is narrower than the whole


class TestVampPriorOfFullNormals(TestVampPrior):
    family = FullNormal


def at(u: Tensor, posterior: Posterior) -> VampPrior:
    """The prior with these pseudo-inputs."""
    prior = VampPrior(posterior.z_shape, u.shape[1:], components=len(u)).to(u)
    with torch.no_grad():
        prior.free.copy_(u)
    return prior


def vamp_model(data: Dataset, components: int = 20, **settings: object) -> lb.VAE:
    x_shape, z_shape = data.event_shape, (3,)
    return lb.VAE(
        VampPrior(z_shape, x_shape, components),
        DiagonalNormal(x_shape, z_shape, **settings),
        lb.likelihoods.Bernoulli(z_shape, x_shape),
    )


@pytest.mark.parametrize("z_shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("family", [DiagonalNormal, FullNormal])
def test_the_density_is_the_posteriors_average(family: type[Posterior], z_shape: Shape) -> None:
    posterior, u = family(X, z_shape).double(), torch.randn(7, *X).double()
    z = torch.randn(11, 5, *z_shape).double()
    log_p = at(u, posterior)(Context(), posterior).log_prob(z)
    one_by_one = torch.stack([posterior(pseudo[None], Context()).log_prob(z) for pseudo in u])
    assert log_p.shape == (11, 5)
    assert torch.allclose(log_p, torch.logsumexp(one_by_one, 0) - math.log(7), rtol=1e-10)


@pytest.mark.parametrize("family", [DiagonalNormal, FullNormal])
def test_with_all_pseudo_inputs_equal_it_is_the_posterior_there(family: type[Posterior]) -> None:
    posterior, u = family(X, (3,)).double(), torch.randn(1, *X).double()
    z = 3 * torch.randn(50, 3).double()
    pz, qz = at(u.expand(9, *X), posterior)(Context(), posterior), posterior(u, Context())
    assert torch.allclose(pz.log_prob(z), qz.log_prob(z), rtol=1e-10)
    assert torch.allclose(pz.mean, qz.mean[0], rtol=1e-10)
    assert torch.allclose(pz.stddev, qz.stddev[0], rtol=1e-10)


def test_with_the_data_for_pseudo_inputs_it_is_the_aggregate_posterior() -> None:
    """KL(q(z) ‖ p(z)) = 0, so that the rate is the mutual information; and the bound holds
    elsewhere too.
    """
    x = torch.randn(300, *X).double()
    posterior = DiagonalNormal(X, (2,)).double()
    model = lb.VAE(at(x, posterior), posterior, lb.likelihoods.Normal((2,), X)).double().eval()
    with torch.no_grad():
        bounds = information(model, x)
        draw = model(x, samples=200)
        assert model(torch.randn(50, *X), samples=1).log_w.isfinite().all()
    # the same average over the same 300 densities, hence zero example by example
    assert bounds.marginal_kl.abs().max() < 1e-9
    # the average over the other 299 lies below it, by as much as each contributes to its own place:
    # no bound above 0
    assert bounds.marginal_kl_lower is None or bounds.marginal_kl_lower.mean() <= 0
    error = bounds.mutual_information.std() / math.sqrt(300)
    assert abs(draw.rate.mean() - bounds.mutual_information.mean()) < 4 * error


def test_gradients_reach_the_pseudo_inputs_and_through_them_the_posterior() -> None:
    posterior = DiagonalNormal(X, (2,))
    prior = VampPrior((2,), X, components=5)
    prior(Context(), posterior).log_prob(torch.randn(7, 2)).sum().backward()
    for part in (prior, posterior):
        all_parameters_get_gradients(part)
        assert all(bool((p.grad != 0).any()) for p in part.parameters())


def test_it_starts_at_different_training_examples() -> None:
    """Within [0, 1] up to the sigmoid's edge; on another scale exactly, in the units of the
    data.
    """
    for x, tolerance in ((torch.rand(50, *X), 0.0101), (100 + 50 * torch.randn(50, *X), 1e-3)):
        prior = VampPrior((2,), X, components=30)
        prior.prepare(x)
        distance, nearest = (prior.pseudo_inputs[:, None] - x).abs().amax(-1).min(1)
        assert bool((distance < tolerance).all())
        assert len(nearest.unique()) == 30


def test_pictures_stay_pictures_and_other_data_are_not_squashed() -> None:
    prior = VampPrior((2,), X, components=30)
    prior.prepare(torch.rand(50, *X).round())
    with torch.no_grad():
        prior.free.mul_(100)
    assert bool(((prior.pseudo_inputs >= 0) & (prior.pseudo_inputs <= 1)).all())
    prior = VampPrior((2,), X, components=1)
    prior.prepare(10 * torch.randn(50, *X))
    with torch.no_grad():
        prior.free.fill_(100)
    assert bool((prior.pseudo_inputs > 500).all())


def test_a_model_that_was_trained_is_not_started_again(
    binary_digits: Dataset, tmp_path: Path
) -> None:
    model = vamp_model(binary_digits)
    noise = model.prior.free.detach().clone()
    quiet(model, binary_digits, out=tmp_path / "run")
    trained = model.prior.free.detach().clone()
    assert not torch.allclose(trained, noise)
    model.prior.prepare(torch.rand(50, *binary_digits.event_shape))
    assert torch.equal(model.prior.free, trained)
    again = lb.load(tmp_path / "run")
    quiet(again, binary_digits, epochs=1, learning_rate=1e-12)
    assert torch.allclose(again.prior.free, trained, atol=1e-6)


def test_fewer_examples_than_pseudo_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="there are 20; use as many components or fewer"):
        VampPrior((2,), X, components=21).prepare(torch.rand(20, *X))


class Labelled(DiagonalNormal):
    """q(z|x, y), which cannot do without y."""

    def forward(self, x: Tensor, context: Context) -> Distribution:
        return super().forward(x + context.y[:, None], context)


def test_what_cannot_work_is_refused_in_one_line() -> None:
    prior = VampPrior((2,), X, components=5)
    with pytest.raises(ValueError, match=r"made of the posterior; call it with one"):
        prior(Context())
    with pytest.raises(
        ValueError, match=r"have the shape \(4,\), and the posterior takes x of shape \(3,\)"
    ):
        prior(Context(), DiagonalNormal((3,), (2,)))
    with pytest.raises(
        ValueError, match="Labelled fails on pseudo-inputs, which have no labels .* another prior"
    ):
        lb.VAE(prior, Labelled(X, (2,)), lb.likelihoods.Normal((2,), X))(
            torch.rand(5, *X), Context(y=torch.ones(5))
        )
    with pytest.raises(ValueError, match="components is 0"):
        VampPrior((2,), X, components=0)


def test_labels_and_masks_of_examples_are_not_those_of_pseudo_inputs() -> None:
    model = lb.VAE(
        VampPrior((2,), X, components=7), DiagonalNormal(X, (2,)), lb.likelihoods.Normal((2,), X)
    )
    x, context = (
        torch.rand(5, *X),
        Context(y=torch.arange(5), mask=torch.ones(5, *X), index=torch.arange(5)),
    )
    z = model(x).latents[0].z
    assert torch.allclose(model.log_joint(x, (z,)), model.log_joint(x, (z,), context), atol=1e-5)


def test_it_never_holds_the_posterior() -> None:
    model = lb.VAE(
        VampPrior((2,), X, components=7), DiagonalNormal(X, (2,)), lb.likelihoods.Normal((2,), X)
    )
    model(torch.rand(5, *X))
    assert set(dict(model.prior.named_modules())) == {"", "standardizer"}
    assert set(model.prior.state_dict()) == {
        "free",
        "is_unit",
        "is_prepared",
        "standardizer.loc",
        "standardizer.scale",
    }


def noisy(in_shape: Shape, out_shape: Shape) -> nn.Module:
    """A network with everything that is another function in training."""
    return nn.Sequential(
        nn.BatchNorm1d(4),
        lb.networks.MLP(in_shape, (16,)),
        nn.Dropout(0.5),
        nn.Linear(16, 4),
        Pairs(),
    )


class Pairs(nn.Module):
    """(N, 4) -> (N, 2, 2)."""

    def forward(self, value: Tensor) -> Tensor:
        return value.unflatten(1, (2, 2))


@pytest.mark.parametrize("path_gradient", [False, True])
def test_in_training_it_is_the_density_of_evaluation_and_moves_no_statistics(
    path_gradient: bool,
) -> None:
    posterior = DiagonalNormal(X, (2,), network=noisy)
    with_vamp = lb.VAE(
        VampPrior((2,), X, components=7), posterior, lb.likelihoods.Normal((2,), X)
    ).train()
    x = torch.rand(8, *X)
    draw = with_vamp(x, path_gradient=path_gradient)
    norm = posterior.net[0]
    assert norm.num_batches_tracked.item() == 1
    assert torch.allclose(norm.running_mean, 0.1 * x.mean(0))
    assert all(module.training for module in with_vamp.modules())  # as it was
    z = draw.latents[0].z
    one = with_vamp.prior(Context(), posterior).log_prob(z)
    assert torch.equal(one, with_vamp.prior(Context(), posterior).log_prob(z))
    assert torch.equal(one, with_vamp.eval().prior(Context(), posterior.eval()).log_prob(z))
    (-draw.log_w.mean()).backward()


def test_it_is_trained_saved_loaded_and_scores_the_same(
    binary_digits: Dataset, tmp_path: Path
) -> None:
    model = vamp_model(binary_digits)
    history = quiet(model, binary_digits, epochs=5, out=tmp_path / "run")
    assert history.epochs[0]["rate_estimator"] == "sampled"
    loss = history.series("loss", "valid")
    assert loss[-1] < loss[0]
    x = binary_digits.examples("test")
    again = lb.load(tmp_path / "run")
    assert torch.equal(lb.evaluation.log_marginal(model, x, samples=20, seed=0),
                       lb.evaluation.log_marginal(again, x, samples=20, seed=0))  # fmt: skip
    assert torch.equal(model.sample(5, seed=0), again.sample(5, seed=0))


@pytest.mark.filterwarnings("ignore:the model has parts from tests")
@pytest.mark.parametrize("kind", ["vamp", "mixture"])
def test_a_run_that_was_stopped_and_resumed_is_the_run_that_was_not(
    kind: str, binary_digits: Dataset, tmp_path: Path
) -> None:
    def train(out: Path, stop_at: int | None, resume: bool) -> lb.VAE:
        torch.manual_seed(0)
        model = vamp_model(binary_digits)
        if kind == "mixture":
            model.prior = lb.priors.Mixture((3,))
        lb.fit(
            model,
            Stopping(stop_at),
            binary_digits,
            epochs=2,
            out=out,
            resume=resume,
            progress=False,
        )
        return model

    whole = train(tmp_path / "whole", None, False)
    for stop_at in (1, 15):
        out = tmp_path / f"stopped-{stop_at}"
        with pytest.raises(KeyboardInterrupt):
            train(out, stop_at, False)
        assert torch.equal(weights(whole), weights(train(out, None, True)))
        assert (out / "model.safetensors").read_bytes() == (
            tmp_path / "whole" / "model.safetensors"
        ).read_bytes()


@pytest.mark.parametrize("start", ["posterior", "prior"])
def test_annealing_and_weighting_find_the_integral(start: str) -> None:
    model = lb.VAE(
        VampPrior((1,), (5,), components=6), DiagonalNormal((5,), (1,)), Curved((1,), (5,))
    ).double()
    x, _ = model.sample_joint(8)
    z = torch.linspace(-12, 12, 20001, dtype=torch.float64)[:, None, None].expand(-1, 8, -1)
    with torch.no_grad():
        exact = torch.logsumexp(model.log_joint(x, (z,)), 0) + math.log(24 / 20000)
    walked = annealed(model, x, chains=2000, temperatures=8, start=start, seed=0)
    ratio = (walked.log_w - exact).exp()
    assert bool(((ratio.mean(0) - 1).abs() < 4.5 * ratio.std(0) / math.sqrt(2000) + 1e-6).all())
    with torch.no_grad():
        weighted = evidence(model, x, samples=20_000)
    error = (weighted.log_terms + math.log(20_000) - exact).exp().std(0) / math.sqrt(20_000)
    assert bool(((weighted.log_marginal - exact).abs() < 5 * error).all())


@pytest.mark.parametrize("components", [5, 8])
def test_refining_q_of_some_examples_leaves_the_prior_alone(components: int) -> None:
    """Also with as many pseudo-inputs as examples, where no shape would complain."""
    posterior = DiagonalNormal(X, (2,))
    model = lb.VAE(VampPrior((2,), X, components), posterior, lb.likelihoods.Normal((2,), X)).eval()
    x, z = torch.rand(8, *X), torch.randn(3, 8, 2)
    with torch.no_grad():
        before = model.prior(Context(), posterior).log_prob(z)
        elbo = model(x, samples=500).log_w.mean()
        with refined(model, posterior, x, steps=50):
            assert torch.equal(model.prior(Context(), posterior).log_prob(z), before)
            assert model(x, samples=500).log_w.mean() > elbo


def test_it_does_no_worse_than_a_standard_normal(binary_digits: Dataset) -> None:
    """On held-out digits, trained alike: paired by example, within the noise of 180 of them and of
    a seed.
    """
    nll = []
    linear = partial(lb.networks.MLP, hidden=(64,))
    for kind in ("vamp", "mixture", "standard"):
        torch.manual_seed(0)
        model = vamp_model(binary_digits, components=50, network=linear)
        if kind != "vamp":
            model.prior = (
                lb.priors.Mixture((3,)) if kind == "mixture" else lb.priors.StandardNormal((3,))
            )
        quiet(model, binary_digits, epochs=15, learning_rate=3e-3)
        nll.append(
            -lb.evaluation.log_marginal(model, binary_digits.examples("test"), samples=50, seed=0)
        )
    for without in nll[:2]:
        difference = without - nll[2]
        assert difference.mean() < 4 * difference.std() / math.sqrt(180)


def test_the_loss_is_that_of_a_mixture_of_the_same_components() -> None:
    posterior = DiagonalNormal(X, (2,)).double()
    u, x = torch.rand(6, *X).double(), torch.rand(5, *X).double()
    components = posterior(u, Context()).base_dist
    mixture = lb.priors.Mixture((2,), components=6).double()
    with torch.no_grad():
        mixture.loc.copy_(components.loc)
        mixture.log_scale.copy_(components.scale.log())
    losses = []
    for prior in (at(u, posterior), mixture):
        model = lb.VAE(prior, posterior, lb.likelihoods.Normal((2,), X)).double()
        torch.manual_seed(0)
        model.likelihood = lb.likelihoods.Normal((2,), X).double()
        losses.append(lb.objectives.ELBO().terms(model(x), Step(1, 5)).loss)
    assert torch.allclose(*losses, rtol=1e-10)
