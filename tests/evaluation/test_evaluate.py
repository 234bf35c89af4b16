"""Evaluation: every example once, honest names, and results that do not depend on how they were
batched.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
import torch

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from lowerbound.roles import Context, Likelihood
from lowerbound.supports import UNIT
from tests.conftest import make_model
from tests.test_exact import ppca


def test_every_example_counts_once_whatever_the_batch(binary_digits: Dataset) -> None:
    model = make_model(binary_digits)
    results = {
        size: lb.evaluate(model, binary_digits, samples=20, batch_size=size)
        for size in (180, 100, 7, 1)
    }
    for result in results.values():
        assert result.nll.n == result.elbo.n == 180
        # rates are in closed form, so they are equal up to rounding; the draws differ, so their
        # means agree within error
        assert result.rate.value == pytest.approx(results[180].rate.value, rel=1e-5)
        assert abs(result.nll.value - results[180].nll.value) < 4 * 0.5 / math.sqrt(180 * 20) + 0.05


def test_the_order_of_examples_changes_nothing_but_noise(binary_digits: Dataset) -> None:
    model = make_model(binary_digits)
    x = binary_digits.examples("test")
    forward = lb.evaluation.log_marginal(model, x, samples=200, seed=0)
    backward = lb.evaluation.log_marginal(model, x.flip(0), samples=200, seed=1).flip(0)
    difference = forward - backward
    assert difference.mean().abs() < 4 * difference.std() / math.sqrt(180)


def test_the_same_seed_gives_the_same_numbers_and_the_global_state_is_left_alone(
    binary_digits: Dataset,
) -> None:
    model = make_model(binary_digits).train()
    before = torch.get_rng_state()
    assert lb.evaluate(model, binary_digits, samples=5) == lb.evaluate(
        model, binary_digits, samples=5
    )
    assert torch.equal(before, torch.get_rng_state())
    assert model.training


def test_the_nll_falls_with_the_samples_and_lies_below_the_negative_elbo(
    binary_digits: Dataset,
) -> None:
    model = make_model(binary_digits)
    lb.fit(model, lb.objectives.ELBO(), binary_digits, epochs=20, progress=False)
    one, many = (lb.evaluate(model, binary_digits, samples=k) for k in (1, 500))
    assert many.nll.value < one.nll.value
    assert many.nll.value < -many.elbo.value
    assert many.elbo.value == pytest.approx(-many.rate.value - many.distortion.value)
    assert many.nll.value > 0  # of binary data: -log of a probability


def test_bits_per_dim_are_those_of_the_nll_and_of_discrete_data_only(
    digits: Dataset, binary_digits: Dataset
) -> None:
    result = lb.evaluate(make_model(binary_digits), binary_digits, samples=5)
    assert result.bits_per_dim.value == pytest.approx(result.nll.value / 64 / math.log(2))
    assert (
        lb.evaluate(
            make_model(digits, likelihood="Categorical", levels=17), digits, samples=5
        ).bits_per_dim
        is not None
    )
    assert (
        lb.evaluate(make_model(digits, likelihood="Normal"), digits, samples=5).bits_per_dim is None
    )


class UniformDensity(Likelihood):
    """A density of exactly 1 on [0, 1), whatever z."""

    def __init__(self, z_shape: tuple[int, ...], x_shape: tuple[int, ...]) -> None:
        super().__init__(z_shape, x_shape)
        self.support = UNIT
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def forward(self, z: torch.Tensor, context: Context) -> torch.distributions.Distribution:
        low = torch.zeros(*z.shape[:-1], *self.x_shape)
        base = torch.distributions.Uniform(low, low + 1, validate_args=False)
        return torch.distributions.Independent(base, len(self.x_shape), validate_args=False)


def deaf(likelihood: Likelihood, data: Dataset) -> lb.VAE:
    """A model whose q is its prior and whose p(x|z) is the same for all z, so that log p(x) = log
    p(x|z) exactly.
    """
    model = lb.VAE(
        lb.priors.StandardNormal((2,)),
        lb.posteriors.DiagonalNormal(data.event_shape, (2,)),
        likelihood,
    )
    for p in model.parameters():
        if p.requires_grad:
            torch.nn.init.zeros_(p)
    return model


def test_a_uniform_density_of_dequantised_levels_costs_log2_of_their_number() -> None:
    data = lb.data.load("digits", dequantize=True)
    result = lb.evaluate(deaf(UniformDensity((2,), data.event_shape), data), data, samples=3)
    assert result.nll.value == pytest.approx(0, abs=1e-6)
    assert result.bits_per_dim.value == pytest.approx(math.log2(17), rel=1e-6)
    assert result.bits_per_dim.unit == "bits per dimension"


def test_a_normal_density_of_dequantised_levels_costs_what_its_integral_says() -> None:
    """With x = (v + u) / L and p = N(0, s^2) in each pixel, E[x^2] = (v^2 + v + 1/3) / L^2 gives
    the expected nll.
    """
    data, s = lb.data.load("digits", dequantize=True), 0.5
    v = data["test"].values.double().flatten(1)
    dimensions = v.shape[1]
    second = (v**2 + v + 1 / 3) / 17**2
    nats = (second / (2 * s**2)).sum(1) + dimensions * math.log(s * math.sqrt(2 * math.pi))
    bits = (nats.mean() + dimensions * math.log(17)) / (dimensions * math.log(2))
    fourth = (v**4 + 2 * v**3 + 2 * v**2 + v + 1 / 5) / 17**4
    noise = (
        ((fourth - second**2).sum() / (2 * s**2) ** 2).sqrt() / len(v) / (dimensions * math.log(2))
    )  # of u alone
    model = deaf(lb.likelihoods.Normal((2,), data.event_shape, scale=s), data)
    result = lb.evaluate(model, data, samples=3)
    assert abs(result.bits_per_dim.value - bits) < 4 * noise + 1e-5
    assert result.bits_per_dim.stderr == pytest.approx(
        result.nll.stderr / (dimensions * math.log(2)), rel=1e-6
    )


def test_a_uniform_categorical_costs_log_17_a_pixel(digits: Dataset) -> None:
    model = make_model(digits, likelihood="Categorical", levels=17)
    for p in model.likelihood.parameters():
        torch.nn.init.zeros_(p)
    result = lb.evaluate(model, digits, samples=3)
    assert result.distortion.value == pytest.approx(64 * math.log(17), rel=1e-5)
    assert result.distortion.stderr < 1e-4


def test_cross_entropy_is_never_called_a_likelihood(digits: Dataset) -> None:
    model = make_model(digits, likelihood="BinaryCrossEntropy")
    result = lb.evaluate(model, digits, samples=5)
    assert result.elbo is result.nll is result.bits_per_dim is result.distortion is None
    assert result.objective.value == pytest.approx(result.cross_entropy.value + result.rate.value)
    content = json.loads(json.dumps(result.as_json(), allow_nan=False))
    assert content["elbo"] is content["nll"] is content["bits_per_dim"] is None
    assert {"value", "stderr", "n", "unit"} == set(content["cross_entropy"])
    with pytest.raises(ValueError, match="no log-density"):
        lb.evaluation.log_marginal(model, digits.examples("test"))


def test_a_collapsed_model_has_no_active_units(binary_digits: Dataset) -> None:
    model = make_model(binary_digits)
    for p in model.posterior.parameters():
        torch.nn.init.zeros_(p)
    result = lb.evaluate(model, binary_digits, samples=5)
    assert result.active_units == 0
    assert result.rate.value == 0
    trained = make_model(binary_digits)
    lb.fit(trained, lb.objectives.ELBO(), binary_digits, epochs=20, progress=False)
    assert lb.evaluate(trained, binary_digits, samples=5).active_units > 0


def test_a_value_that_is_not_finite_is_not_dropped_from_the_mean() -> None:
    assert math.isnan(lb.Estimate.over(torch.tensor([1.0, math.nan, 2.0])).value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "samples is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"split": "tset"}, "did you mean 'test'"),
        ({"estimator": "asi"}, "did you mean 'ais'"),
        ({"estimator": "ais", "curve": True}, "leave it out"),
        ({"samples": 5.5}, "whole number"),
        ({"estimator": "ais", "temperatures": 0}, "temperatures is 0"),
        ({"examples": 0}, "examples is 0"),
    ],
)
def test_refusals(binary_digits: Dataset, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lb.evaluate(make_model(binary_digits), binary_digits, **settings)


def test_digits_are_learned(binary_digits: Dataset) -> None:
    """A trained model explains held-out digits far better than the best model without latents."""
    train, test = binary_digits.examples("train"), binary_digits.examples("test")
    p = train.mean(0).clamp(1e-3, 1 - 1e-3)
    independent = -(test * p.log() + (1 - test) * (1 - p).log()).sum((1, 2, 3))
    model = make_model(binary_digits, 8)
    lb.fit(model, lb.objectives.ELBO(), binary_digits, epochs=60, progress=False)
    nll = lb.evaluate(model, binary_digits).nll
    assert nll.value < independent.mean() - 5


def test_the_curve_is_made_of_the_same_draws(binary_digits: Dataset) -> None:
    model = make_model(binary_digits)
    lb.fit(model, lb.objectives.ELBO(), binary_digits, epochs=10, progress=False)
    result = lb.evaluate(model, binary_digits, samples=500, curve=True)
    assert [point.samples for point in result.curve] == [1, 10, 100, 500]
    assert result.curve[-1].nll.value == pytest.approx(result.nll.value, rel=1e-6)
    values = [point.nll.value for point in result.curve]
    assert values == sorted(values, reverse=True)
    for before, point in pairwise(result.curve):
        assert point.fall.value == pytest.approx(before.nll.value - point.nll.value, abs=1e-6)
        assert point.fall.stderr < before.nll.stderr  # paired by example
    assert result.curve[0].remaining_bias is None
    assert result.curve[1].remaining_bias == pytest.approx(
        result.curve[1].fall.value / 9
    )  # at rate 1/K, for want of a second fall
    assert (
        result.curve[-1].remaining_bias
        < result.curve[-2].remaining_bias
        < result.curve[1].remaining_bias
    )
    assert lb.evaluate(model, binary_digits, samples=500).curve == ()
    assert "K = 500" in str(result)
    json.dumps(result.as_json(), allow_nan=False)


def test_a_bound_that_is_still_moving_is_said_to_be(binary_digits: Dataset) -> None:
    model = make_model(binary_digits, 16)
    lb.fit(
        model, lb.objectives.ELBO(), binary_digits, epochs=30, learning_rate=3e-3, progress=False
    )
    with (
        torch.no_grad()
    ):  # a posterior that is too narrow misses most of p(z|x), and its weights have a heavy tail
        model.posterior.net.layers[-1].bias[16:] -= 4
    drawn = lb.evaluate(model, binary_digits, samples=100)
    (told,) = [words for words in drawn.warnings if "nll" in words]
    assert "nll still fell by" in told
    assert "Pareto k above 0.7" in told
    annealed = lb.evaluate(
        model, binary_digits, estimator="ais", chains=4, temperatures=100, examples=40
    )
    few = lb.evaluate(model, binary_digits, samples=100, curve=True, examples=40)
    assert few.nll.value - annealed.nll.value > few.nll.stderr  # it was true
    assert (
        lb.evaluate(make_model(binary_digits), binary_digits, samples=100).heavy_tails.value < 0.2
    )


def test_heavy_tails_are_no_warning_where_nll_no_longer_falls() -> None:
    """Weights with a heavy tail in half of the examples, and a bias below the standard error: the
    number can be believed, whatever its weights look like. With a q that is narrower still it
    cannot, though the curve alone would say that it can.
    """
    for inflation, is_biased in ((0.5, False), (0.3, True)):
        model, x, exact = ppca(inflation=inflation)
        data = lb.data.from_arrays(x[:60].numpy(), splits="all")
        result = lb.evaluate(model, data, split="all", samples=1000)
        assert result.heavy_tails.value > 0.4
        bias = result.nll.value + float(exact[:60].mean())
        assert (bias > result.nll.stderr) == is_biased
        told = [words for words in result.warnings if "nll" in words or "Pareto" in words]
        assert len(told) == is_biased


@pytest.mark.parametrize("samples", [99, 100])
def test_heavy_tails_are_given_from_as_many_draws_as_is_documented(
    binary_digits: Dataset, samples: int
) -> None:
    result = lb.evaluate(make_model(binary_digits), binary_digits, samples=samples, examples=20)
    assert (result.heavy_tails is None) == (samples < 100)
    assert "None for fewer\n            than 100 draws" in (lb.Evaluation.__doc__ or "")


def test_mutual_information_at_its_ceiling_is_said_to_be_there() -> None:
    """q is so narrow that no two examples share a code: n of them show log n nats, and no more."""
    data = lb.data.from_arrays(100 * torch.arange(40.0)[:, None].numpy(), splits="all")
    model = make_model(data, 1, "Normal")
    model.learn_units(data.examples("all"))
    with torch.no_grad():
        model.posterior.net.layers[-1].bias[1:] -= 40
    result = lb.evaluate(model, data, split="all", samples=5)
    assert result.mutual_information.value == pytest.approx(math.log(40), rel=1e-3)
    assert any("at its ceiling" in words and "log 40 = 3.689" in words for words in result.warnings)
    with torch.no_grad():
        model.posterior.net.layers[-1].bias[1:] += 42
    plain = lb.evaluate(model, data, split="all", samples=5)
    assert plain.mutual_information.value < 0.9 * math.log(40)
    assert not any("ceiling" in words for words in plain.warnings)


def test_annealing_takes_the_place_of_weighting(binary_digits: Dataset) -> None:
    model = make_model(binary_digits)
    lb.fit(model, lb.objectives.ELBO(), binary_digits, epochs=10, progress=False)
    seen: list[tuple[int, int]] = []
    by_chains = lb.evaluate(
        model, binary_digits, estimator="ais", chains=4, temperatures=40, examples=60,
        on_progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    by_draws = lb.evaluate(model, binary_digits, samples=1000, examples=60)
    assert by_chains.n == by_chains.nll.n == 60
    assert "4 chains, temperatures: 40" in by_chains.estimator
    assert by_chains.effective_samples is by_chains.heavy_tails is None
    paired = lb.compare({"draws": by_draws, "chains": by_chains}).differences["chains"]["nll"]
    assert abs(paired.value) < 4 * paired.stderr + 0.02
    assert by_chains.bits_per_dim.value == pytest.approx(by_chains.nll.value / 64 / math.log(2))
    assert seen[-1][0] == seen[-1][1]


def test_a_collapsed_posterior_is_called_so_in_training_and_in_evaluation(
    binary_digits: Dataset,
) -> None:
    model = make_model(binary_digits)
    with pytest.warns(UserWarning, match="posterior collapse: in epoch 10 of 20"):
        lb.fit(
            model,
            lb.objectives.ELBO(beta=30.0),
            binary_digits,
            epochs=20,
            batch_size=50,
            progress=False,
        )
    (told,) = [
        words
        for words in lb.evaluate(model, binary_digits, samples=5).warnings
        if "collapse" in words
    ]
    assert told.startswith("posterior collapse: the rate is ")
    assert "active" not in told  # "2 of 2 dimensions are active" reads as a contradiction


def test_the_objective_of_a_score_is_all_that_was_minimised(digits: Dataset) -> None:
    model = make_model(digits, likelihood="BinaryCrossEntropy")
    plain, free = (
        lb.evaluate(model, digits, samples=5, objective=lb.objectives.ELBO(free_bits=f))
        for f in (0.0, 5.0)
    )
    rates = model(digits.examples("test")).rate_per_dimension
    assert rates is not None
    added = (
        torch.relu(5.0 - rates[:100].mean(0)).sum() * 100
        + torch.relu(5.0 - rates[100:].mean(0)).sum() * 80
    )
    assert free.objective.value - plain.objective.value == pytest.approx(
        added.item() / 180, rel=1e-4
    )


def test_the_rates_of_the_dimensions_add_up(binary_digits: Dataset) -> None:
    model = make_model(binary_digits)
    result = lb.evaluate(model, binary_digits, samples=3)
    assert len(result.rate_per_dimension) == result.latent_dimensions == 3
    assert sum(each.value for each in result.rate_per_dimension) == pytest.approx(
        result.rate.value, rel=1e-5
    )
    assert {each["unit"] for each in result.as_json()["rate_per_dimension"]} == {"nats"}
    model.posterior = lb.posteriors.FullNormal(binary_digits.event_shape, (3,))
    assert lb.evaluate(model, binary_digits, samples=3).rate_per_dimension is None


def test_a_narrow_or_a_lone_posterior_has_not_collapsed(binary_digits: Dataset) -> None:
    """Active units are judged by an absolute scale and over examples; the rate is not."""
    model = make_model(binary_digits)
    lb.fit(model, lb.objectives.ELBO(), binary_digits, epochs=10, progress=False)
    assert lb.evaluate(model, binary_digits, samples=2, examples=1).warnings == ()


@pytest.mark.parametrize(
    ("samples", "points"),
    [
        (1, [1]),
        (2, [2]),
        (10, [1, 10]),
        (101, [1, 10, 101]),
        (250, [1, 10, 250]),
        (300, [1, 10, 100, 300]),
    ],
)
def test_the_points_of_the_curve_lie_apart(
    binary_digits: Dataset, samples: int, points: list[int]
) -> None:
    result = lb.evaluate(
        make_model(binary_digits), binary_digits, samples=samples, curve=True, examples=3
    )
    assert [point.samples for point in result.curve] == points


def test_memory_follows_the_batch_and_not_the_split() -> None:
    """No more than a batch goes through the decoder at a time, for the aggregate posterior
    either.
    """
    data = lb.data.from_arrays(torch.rand(300, 5).numpy(), splits="all")
    model = make_model(data, 2, "Normal")
    seen: list[int] = []
    model.likelihood.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].shape[1])
    )
    lb.evaluate(model, data, split="all", samples=3, batch_size=50)
    assert max(seen) == 50


def test_networks_in_bfloat16_give_nearly_the_same_numbers_and_say_so(
    binary_digits: Dataset,
) -> None:
    model = make_model(binary_digits)
    lb.fit(
        model, lb.objectives.ELBO(), binary_digits, epochs=10, learning_rate=5e-3, progress=False
    )
    seen: set[torch.dtype] = set()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _module, _given, out: seen.add(out.dtype))
    full = lb.evaluate(model, binary_digits, samples=50)
    assert seen == {torch.float32}
    seen.clear()
    rounded = lb.evaluate(model, binary_digits, samples=50, precision="bf16-mixed")
    assert seen == {torch.bfloat16}
    assert rounded.estimator == full.estimator + "; networks in bfloat16"
    assert rounded.values["nll"].dtype == torch.float32
    # each logit is wrong by up to 2^-9 of itself, and wrong either way: what is left is far below a
    # standard error
    difference = rounded.values["nll"] - full.values["nll"]
    assert 0 < difference.abs().mean() < 0.1
    assert difference.mean().abs() < 0.02 < full.nll.stderr / 10


def test_a_precision_that_is_none_and_one_that_annealing_has_not(binary_digits: Dataset) -> None:
    model = make_model(binary_digits)
    with pytest.raises(ValueError, match="precision 'bf16'.*bf16-mixed"):
        lb.evaluate(model, binary_digits, precision="bf16")
    with pytest.raises(ValueError, match="precision 32-true, or importance"):
        lb.evaluate(model, binary_digits, precision="bf16-mixed", estimator="ais")
