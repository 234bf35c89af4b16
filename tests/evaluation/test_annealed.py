"""Annealing against evidence that is known, from both sides, and from both starts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, HalfNormal, Independent, OneHotCategorical

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from lowerbound.draw import Draw
from lowerbound.evaluation import annealed, evidence, log_marginal, sandwich
from lowerbound.roles import Context, Posterior, Prior
from lowerbound.utils.seeding import seeded
from tests.conftest import make_model
from tests.known_models import Curved, drawing, finite, log_evidence, on_a_grid
from tests.test_exact import ppca


@pytest.mark.parametrize("start", ["posterior", "prior"])
def test_the_weights_are_unbiased_however_few_the_temperatures(start: str) -> None:
    """E[w] = p(x) whatever T: the theorem of annealed importance sampling, on numerical
    integrals.
    """
    model, x, exact = on_a_grid()
    for temperatures in (1, 2, 12):
        found = annealed(model, x, chains=3000, temperatures=temperatures, start=start, seed=0)
        ratio = (found.log_w - exact).exp()
        stderr = ratio.std(0) / math.sqrt(3000)
        assert bool(((ratio.mean(0) - 1).abs() < 4.5 * stderr + 1e-6).all()), (
            ratio.mean(0),
            stderr,
        )


def test_the_backward_weights_are_unbiased_too() -> None:
    """E[1/w] = 1/p(x) over simulations of z given x; here over pairs, whose mean ratio is 1 as
    well.
    """
    model, _, _ = on_a_grid()
    found = sandwich(model, n=2000, chains=1, temperatures=12, seed=0)
    z = torch.linspace(-10, 10, 2001, dtype=torch.float64)[:, None, None].expand(-1, 2000, -1)
    with torch.no_grad():
        exact = torch.logsumexp(model.log_joint(found.x, (z,)), 0) + math.log(20 / 2000)
    ratio = (exact - found.upper).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(2000)
    assert abs((found.lower - exact).exp().mean() - 1) < 4 * (
        found.lower - exact
    ).exp().std() / math.sqrt(2000)


@pytest.mark.parametrize("start", ["posterior", "prior"])
def test_more_temperatures_come_closer_and_the_sandwich_closes(start: str) -> None:
    model, _, _ = ppca(inflation=2.0)
    few, many = (
        sandwich(model, n=100, chains=4, temperatures=temperatures, start=start, seed=1)
        for temperatures in (3, 300)
    )
    gaps = [found.upper - found.lower for found in (few, many)]
    errors = [float(gap.std()) / 10 for gap in gaps]
    assert gaps[0].mean() > 3 * errors[0]
    assert gaps[1].mean() > -4 * errors[1]
    assert gaps[1].mean() - 4 * errors[1] < 0.05
    assert gaps[1].mean() < 0.2 * gaps[0].mean()


def test_it_is_exact_where_the_start_is() -> None:
    """With q = p(z|x) the path does not move: every weight is p(x), to rounding."""
    model, x, exact = ppca()
    found = annealed(model, x[:20], chains=3, temperatures=10, seed=0)
    assert torch.allclose(found.log_w, exact[:20].expand(3, 20), rtol=1e-8, atol=0)


def test_bounds_by_annealing_and_by_weighting_bracket_the_integral() -> None:
    model, x, exact = on_a_grid(n=200)
    lower = {k: log_marginal(model, x, samples=k, seed=0) for k in (1, 10, 1000)}
    means = [float((bound - exact).mean()) for bound in lower.values()]
    assert means[0] < means[1] < means[2] < 4 * float((lower[1000] - exact).std()) / math.sqrt(200)
    assert means[2] > -0.05
    slack = annealed(model, x, chains=16, temperatures=60, seed=0).log_marginal - exact
    assert abs(slack.mean()) < 4 * slack.std() / math.sqrt(200) + 0.02


def test_evidence_of_a_finite_latent_is_exact_by_enumeration_and_bounded_by_draws() -> None:
    model = finite()
    x = torch.randint(0, 2, (200, 5)).double()
    exact = log_evidence(model, x)
    for samples, chunk in ((1, None), (7, 3), (50, None)):
        found = evidence(model, x, samples=samples, chunk=chunk)
        assert found.is_exact
        assert torch.allclose(found.log_marginal, exact, rtol=1e-12)
    drawn = drawing(model, "sampled")
    with (
        torch.no_grad(),
        seeded(0),
    ):  # in training mode: in evaluation so few states are enumerated whatever is asked for
        bounds = {k: evidence(drawn, x, samples=k).log_marginal - exact for k in (1, 10, 1000)}
    assert bounds[1].mean() < bounds[10].mean() < bounds[1000].mean()
    assert abs(bounds[1000].mean()) < 4 * bounds[1000].std() / math.sqrt(200) + 0.01
    assert not evidence(drawn, x, samples=10).is_exact


def test_the_same_seed_gives_the_same_chains_and_the_global_state_is_left_alone() -> None:
    model, x, _ = on_a_grid()
    before = torch.get_rng_state()
    first, again = (annealed(model, x, chains=3, temperatures=5, seed=7).log_w for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(first, annealed(model, x, chains=3, temperatures=5, seed=8).log_w)


def test_examples_that_are_worked_on_in_turns_are_all_there() -> None:
    model, x, exact = on_a_grid(n=30)
    seen: list[tuple[int, int]] = []
    found = annealed(
        model,
        x,
        chains=200,
        temperatures=20,
        seed=0,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert found.log_marginal.shape == (30,)
    assert seen[-1][0] == seen[-1][1] == len(seen)
    assert bool(((found.log_marginal - exact).abs() < 0.5).all())


def test_no_parameter_is_touched_and_none_gets_a_gradient(binary_digits: Dataset) -> None:
    model = make_model(binary_digits).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    annealed(model, binary_digits.examples("test")[:3], chains=2, temperatures=3, seed=0)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_latent_with_a_shape_and_one_without(binary_digits: Dataset) -> None:
    x = binary_digits.examples("test")[:4]
    for z_shape in ((), (2, 3)):
        model = lb.VAE(
            prior=lb.priors.StandardNormal(z_shape),
            posterior=lb.posteriors.DiagonalNormal(x.shape[1:], z_shape),
            likelihood=lb.likelihoods.Bernoulli(z_shape, x.shape[1:]),
        )
        assert annealed(model, x, chains=3, temperatures=4, seed=0).log_marginal.isfinite().all()


class Of(Prior):
    """A prior that is a given distribution."""

    def __init__(self, distribution: Distribution) -> None:
        super().__init__((3,))
        self.distribution = distribution

    def forward(self, context: Context, posterior: Posterior | None = None) -> Distribution:
        return self.distribution


@pytest.mark.parametrize(
    ("distribution", "message"),
    [
        (OneHotCategorical(torch.ones(3) / 3), "OneHotCategorical is discrete"),
        (Independent(HalfNormal(torch.ones(3)), 1), "HalfNormal lies on"),
    ],
)
def test_refuses_latents_that_gradients_cannot_move(
    binary_digits: Dataset, distribution: Distribution, message: str
) -> None:
    model = make_model(binary_digits)
    model.prior = Of(distribution)
    model.prior.requires_grad_(False)
    for settings in ({}, {"start": "prior"}):
        with pytest.raises(ValueError, match=message):
            annealed(
                Positive(model),
                binary_digits.examples("test")[:2],
                chains=2,
                temperatures=2,
                **settings,
            )


class Positive(nn.Module):
    """The model with its draws made positive or one-hot, so that the prior can score them."""

    def __init__(self, model: lb.VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, context: Context | None, samples: int) -> Draw:
        draw = make_model(lb.data.load("digits", binarize="threshold"))(x, context, samples)
        (latent,) = draw.latents
        return Draw(
            (type(latent)(**{**vars(latent), "p": self.model.prior(Context())}),),
            draw.px,
            draw.log_px,
            draw.log_m,
        )

    def log_joint(self, *_: object) -> Tensor:
        raise AssertionError("refused before any chain moves")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chains": 0}, "chains is 0"),
        ({"temperatures": 0}, "temperatures is 0"),
        ({"leapfrog": 0}, "leapfrog is 0"),
        ({"start": "priro"}, "did you mean 'prior'"),
    ],
)
def test_refusals(settings: dict[str, object], message: str) -> None:
    model, x, _ = on_a_grid()
    with pytest.raises(ValueError, match=message):
        annealed(model, x, **settings)
    with pytest.raises(ValueError, match=message):
        sandwich(model, 3, **settings)


def test_refuses_a_score_and_no_example(digits: Dataset) -> None:
    with pytest.raises(ValueError, match="no log-density"):
        annealed(make_model(digits, likelihood="BinaryCrossEntropy"), digits.examples("test")[:2])
    with pytest.raises(ValueError, match="n is 0"):
        sandwich(on_a_grid()[0], 0)


def test_weights_that_are_not_finite_are_counted_and_named() -> None:
    model, x, _ = on_a_grid()
    x[3] = math.nan
    # unlooked at: a model refuses such x at its doors, and weights may fail for other reasons
    with model.trusting():
        with pytest.raises(
            ValueError,
            match=r"2 of 16 log-weights are not finite, of 1 of 8 examples \(numbers 3\)",
        ):
            annealed(model, x, chains=2, temperatures=3, seed=0)
        with pytest.raises(
            ValueError,
            match=r"50 of 400 log-weights are not finite, of 1 of 8 examples \(numbers 3\)",
        ):
            log_marginal(model, x, samples=50)


def test_one_chain_alone_is_unbiased_too() -> None:
    """A step size that followed the chains that count would be forgiven where thousands share it,
    and not where one does.
    """
    model, x, exact = on_a_grid(n=1)
    copies = 6000
    for temperatures in (6, 30):
        found = annealed(
            model, x.expand(copies, -1), chains=1, temperatures=temperatures, leapfrog=1, seed=3
        )
        ratio = (found.log_w[0] - exact).exp()
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(copies)


def test_labels_travel_with_their_examples() -> None:
    class Labelled(Curved):
        """p(x|z, y) with a weight of its own for each label."""

        def forward(self, z: Tensor, context: Context) -> Distribution:
            px = super().forward(z, context)
            return Independent(
                Bernoulli(logits=px.base_dist.logits + context.y[:, None], validate_args=False), 1
            )

    model, x, _ = on_a_grid(n=40)
    likelihood = Labelled((1,), (5,)).double()
    likelihood.load_state_dict(model.likelihood.state_dict())
    model.likelihood = likelihood
    y = torch.linspace(-4, 4, 40, dtype=torch.float64)
    z = torch.linspace(-10, 10, 4001, dtype=torch.float64)[:, None, None].expand(-1, 40, -1)
    with torch.no_grad():
        exact = torch.logsumexp(model.log_joint(x, (z,), Context(y=y)), 0) + math.log(20 / 4000)
    chains = 300  # so many that the examples are worked on in several turns
    for found in (
        annealed(model, x, Context(y=y), chains=chains, temperatures=20, seed=0).log_marginal,
        log_marginal(model, x, Context(y=y), samples=5000, seed=0),
    ):
        assert (found - exact).abs().max() < 0.5
    moved = annealed(
        model, x, Context(y=y.flip(0)), chains=chains, temperatures=20, seed=0
    ).log_marginal
    assert (moved - exact).abs().max() > 1


def test_chains_that_cannot_fit_and_no_examples_are_refused() -> None:
    model, x, _ = on_a_grid()
    with pytest.raises(ValueError, match="chains for each example needs"):
        annealed(model, x, chains=10**12)
    with pytest.raises(ValueError, match="importance weights for each of 8 examples needs"):
        log_marginal(model, x, samples=10**12)
    for function in (annealed, log_marginal):
        with pytest.raises(ValueError, match="no example"):
            function(model, x[:0])


def test_one_temperature_has_no_trajectory_to_accept() -> None:
    model, x, _ = on_a_grid()
    assert annealed(model, x, chains=2, temperatures=1).acceptance.isnan().all()
