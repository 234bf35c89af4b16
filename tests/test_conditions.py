"""Conditions: p(x|y) against its closed form, on digits, and by every verb; what y is not is said
in one line.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import lowerbound as lb
from lowerbound.conditions import ConditionedInput
from lowerbound.data.dataset import Dataset
from lowerbound.evaluation import annealed, information, log_marginal, sandwich
from lowerbound.explore import interpolate, manifold, rates, traverse
from lowerbound.report.samples import by_condition, framed, samples_shown
from lowerbound.roles import Context
from lowerbound.runs.run import Run
from tests.cli.conftest import Command, command  # noqa: F401  the fixture
from tests.contracts import within

CLASSES, SCALE = 3, 0.7
LINEAR = partial(lb.networks.MLP, hidden=())


def linear_model() -> tuple[lb.VAE, Tensor, Tensor]:
    """z ~ N(m_y, diag s^2), x ~ N(W z + U_y, sigma^2 I), with the exact posterior; and mean and
    covariance of x given y.
    """
    model = lb.VAE(
        lb.priors.ConditionalNormal((2,), condition=CLASSES, network=LINEAR),
        lb.posteriors.FullNormal((4,), (2,), condition=CLASSES, network=LINEAR),
        lb.likelihoods.Normal((2,), (4,), scale=SCALE, condition=CLASSES, network=LINEAR),
    ).double()
    prior, posterior, likelihood = (
        part.net.layers[0] for part in (model.prior, model.posterior, model.likelihood)
    )
    log_variance = torch.tensor([-0.6, 0.8]).double()
    with torch.no_grad():
        noise = (2 * model.likelihood.log_scale).exp()  # 0.49, as near as float32 had it
        prior.weight[2:], prior.bias[2:] = 0.0, log_variance
        weights, shifts = (
            likelihood.weight[:, :2],
            likelihood.weight[:, 2:] + likelihood.bias[:, None],
        )
        means = prior.weight[:2] + prior.bias[:2, None]  # one column a class
        covariance = torch.linalg.inv(
            torch.diag((-log_variance).exp()) + weights.T @ weights / noise
        )
        gain = covariance @ weights.T / noise
        posterior.weight.zero_()
        posterior.weight[:2, :4] = gain
        posterior.weight[:2, 4:] = (
            covariance @ torch.diag((-log_variance).exp()) @ means - gain @ shifts
        )
        factor = torch.linalg.cholesky(covariance)
        posterior.bias.copy_(torch.cat([torch.zeros(2), 2 * factor.diag().log(), factor[1, :1]]))
        of_x = weights @ torch.diag(log_variance.exp()) @ weights.T + noise * torch.eye(4).double()
    return model, (weights @ means + shifts).T, of_x


def test_the_evidence_of_a_linear_model_is_that_of_its_closed_form() -> None:
    model, means, covariance = linear_model()
    y = torch.tensor([0, 1, 2, 2, 1])
    x = torch.randn(5, 4).double()
    exact = MultivariateNormal(means[y], covariance).log_prob(x)
    draw = model(x, Context(y=y), samples=3)
    # at the exact posterior every weight is the evidence
    assert torch.allclose(draw.log_w, exact.expand(3, 5), rtol=1e-10)
    assert torch.allclose(-draw.rate - draw.distortion, draw.log_w.mean(0), atol=3)
    assert torch.allclose(log_marginal(model, x, Context(y=y), samples=2), exact, rtol=1e-10)
    other = MultivariateNormal(means[y.flip(0)], covariance).log_prob(x)
    assert torch.allclose(
        model(x, Context(y=y.flip(0))).iwae, model(x, Context(y=y.flip(0))).log_w[0]
    )
    assert not torch.allclose(exact, other)
    walked = annealed(model, x, Context(y=y), chains=4, temperatures=5, seed=0)
    assert torch.allclose(walked.log_marginal, exact, atol=1e-8)


def test_samples_have_the_moments_of_p_of_x_given_y() -> None:
    model, means, covariance = linear_model()
    for label in range(CLASSES):
        x = model.sample(4000, seed=label, context=Context(y=torch.tensor([label])))
        for d in range(4):
            assert within(x[:, d], means[label, d].detach())
            assert within((x[:, d] - means[label, d].detach()) ** 2, covariance[d, d].detach())


def test_simulated_data_are_sandwiched_given_y() -> None:
    model, means, covariance = linear_model()
    y = torch.tensor([0, 1, 2])
    found = sandwich(model, n=3, chains=4, temperatures=5, context=Context(y=y), seed=0)
    exact = MultivariateNormal(means[y], covariance).log_prob(found.x)
    assert torch.allclose(found.lower, exact, atol=1e-8)
    assert torch.allclose(found.upper, exact, atol=1e-8)


def test_where_the_prior_depends_on_y_there_is_no_information_about_one_p_of_z() -> None:
    model, _, _ = linear_model()
    assert (
        information(model, torch.randn(4, 4).double(), Context(y=torch.tensor([0, 1, 2, 0])))
        is None
    )


@pytest.mark.parametrize("shape", [(), (3,), (1, 4, 5), (3, 2, 2), (4, 5)])
@pytest.mark.parametrize("condition", [4, (), (2,), (1, 4, 2)])
def test_y_is_broadcast_against_leading_dimensions(
    shape: tuple[int, ...], condition: int | tuple[int, ...]
) -> None:
    beside = ConditionedInput(shape, condition, "it")
    y = torch.randint(4, (5,)) if isinstance(condition, int) else torch.randn(5, *condition)
    value = torch.randn(2, 7, 5, *shape)
    both = beside(value, y)
    assert both.shape == (2, 7, 5, *beside.in_shape)
    assert torch.allclose(
        beside(value, y[:1])[:, :, 3],
        beside(value, y[:1].expand(5, *y.shape[1:]))[:, :, 3],
        atol=1e-6,
    )
    assert torch.allclose(
        both[1, 3, 2], beside(value[1, 3, 2], y[2:3]).reshape(beside.in_shape), atol=1e-6
    )
    assert not torch.equal(
        both, beside(value, y.flip(0) if isinstance(condition, tuple) else (y + 1) % 4)
    )


def test_without_a_condition_nothing_is_there() -> None:
    value = torch.randn(5, 3)
    beside = ConditionedInput((3,), None, "it")
    assert beside(value, None) is value
    assert not beside.state_dict()


def conditional(data: Dataset, prior: str = "StandardNormal", latent: int = 2) -> lb.VAE:
    torch.manual_seed(0)
    x_shape, z_shape, y = data.event_shape, (latent,), data.condition
    network = partial(lb.networks.MLP, hidden=(64,))
    pz = (
        lb.priors.ConditionalNormal(z_shape, y, network)
        if prior == "ConditionalNormal"
        else lb.priors.StandardNormal(z_shape)
    )
    return lb.VAE(
        pz,
        lb.posteriors.DiagonalNormal(x_shape, z_shape, network, condition=y),
        lb.likelihoods.Bernoulli(z_shape, x_shape, network, condition=y),
    )


def test_digits_are_likelier_given_their_own_label(binary_digits: Dataset, tmp_path: Path) -> None:
    """And the run is saved, reloaded, and the same when it is interrupted and resumed."""
    model = conditional(binary_digits, "ConditionalNormal")
    how = {"epochs": 12, "learning_rate": 5e-3, "checkpoint_seconds": 0, "progress": False}
    lb.fit(model, lb.objectives.ELBO(), binary_digits, out=tmp_path / "run", **how)
    x, y = binary_digits.examples("test"), binary_digits["test"].y
    assert y is not None
    each = [
        log_marginal(model, x, Context(y=torch.full((len(x),), c)), samples=20, seed=0)
        for c in range(10)
    ]
    log_p = torch.stack(each, 1)
    own = log_p[torch.arange(len(x)), y]
    others = (log_p.sum(1) - own) / 9
    assert (own - others).mean() > 5 * (own - others).std() / len(x) ** 0.5
    assert (
        log_p.argmax(1) == y
    ).float().mean() > 0.75  # Bayes' rule with equal p(y) reads the digits; chance is 0.1
    result = lb.evaluate(model, binary_digits, samples=5)
    assert result.conditional
    assert "p(x|y)" in result.estimator
    assert lb.evaluate(lb.load(tmp_path / "run"), binary_digits, samples=5) == result

    fresh = conditional(binary_digits, "ConditionalNormal")
    steps = iter(range(20))

    def interrupt(*_: object) -> None:
        if next(steps, None) is None:
            raise KeyboardInterrupt

    fresh.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        lb.fit(fresh, lb.objectives.ELBO(), binary_digits, out=tmp_path / "killed", **how)
    fresh = conditional(binary_digits, "ConditionalNormal")
    lb.fit(fresh, lb.objectives.ELBO(), binary_digits, out=tmp_path / "killed", resume=True, **how)
    assert all(
        torch.equal(value, model.state_dict()[name]) for name, value in fresh.state_dict().items()
    )


def test_a_strip_of_each_picture_is_y_and_the_picture_is_completed() -> None:
    data = lb.data.load("digits", binarize="threshold", strip=[3, 4])
    x, y = data.examples("test"), data.context("test").y
    assert data.condition == (1, 8, 2)
    assert y is not None
    assert torch.equal(y, x[..., 3:5])
    model = conditional(data)
    lb.fit(model, lb.objectives.ELBO(), data, epochs=8, learning_rate=5e-3, progress=False)
    given, wrong = (
        log_marginal(model, x, Context(y=own), samples=10, seed=0) for own in (y, y.flip(0))
    )
    assert (
        within(given - wrong, 10.0, 20) or (given - wrong).mean() > 10
    )  # the strip is part of x, and told
    rows = framed(by_condition(model, data.context("test")[:4], 3), x[:4], data)
    assert rows.shape == (4, 5, 1, 8, 8)
    assert torch.equal(rows[:, 0, :, :, 3:5], y[:4])
    assert rows[:, 0, :, :, :3].eq(0).all()
    assert torch.equal(rows[:, -1], x[:4])
    assert samples_shown(model, data, "test", 4, 8)[0].shape == (32, 1, 8, 8)


def test_a_y_that_is_not_finite_is_refused() -> None:
    model = lb.VAE(
        lb.priors.StandardNormal((2,)),
        lb.posteriors.DiagonalNormal((4,), (2,), condition=(3,)),
        lb.likelihoods.Bernoulli((2,), (4,), condition=(3,)),
    )
    with pytest.raises(
        ValueError, match=r"real values of shape \(3,\), and y holds some that are not finite"
    ):
        model.sample(2, context=Context(y=torch.tensor([0.0, float("nan"), 1.0]).expand(2, 3)))


def test_real_values_are_seen_in_units_of_their_spread() -> None:
    rng = np.random.default_rng(0)
    y = 300 + 20 * rng.normal(size=200)
    x = np.stack([y, -y], 1) / 100 + rng.normal(size=(200, 2))
    data = lb.data.from_arrays(x, y)
    assert data.condition == ()
    model = lb.VAE(
        lb.priors.ConditionalNormal((1,), ()),
        lb.posteriors.DiagonalNormal((2,), (1,), condition=()),
        lb.likelihoods.Normal((1,), (2,), condition=()),
    )
    lb.fit(model, lb.objectives.ELBO(), data, epochs=1, progress=False)
    seen = model.prior.encoder(data.context("train").y)
    assert abs(float(seen.mean())) < 1e-4
    assert float(seen.std()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("prior", ["StandardNormal", "ConditionalNormal"])
def test_every_verb_takes_y(binary_digits: Dataset, prior: str) -> None:
    model, x, context = (
        conditional(binary_digits, prior),
        binary_digits.examples("test"),
        binary_digits.context("test"),
    )
    three, eight = Context(y=torch.tensor([3])), Context(y=torch.tensor([8]))
    assert model.sample(4, seed=0, context=three).shape == (4, 1, 8, 8)
    for verb in (
        lambda c: model.sample(4, 0, c, True),
        lambda c: model.reconstruct(x[:5], c),
        lambda c: traverse(model, torch.zeros(2), [0, 1], 3, c),
        lambda c: manifold(model, 3, c),
        lambda c: interpolate(model, x[:1], x[1:2], 4, (c, c)),
    ):
        assert not torch.equal(verb(three), verb(eight))
    pairs = interpolate(model, x[:6], x[6:12], 3, (context[:6], context[6:12]))
    assert torch.allclose(pairs[:, 0], model.reconstruct(x[:6], context[:6]), atol=1e-6)
    assert rates(model, x, context=context)[1].shape == (2,)
    assert by_condition(model, Context(y=torch.arange(10)), 3).shape == (10, 3, 1, 8, 8)
    shown, words = samples_shown(model, binary_digits, "test", 4, 8)
    assert shown.shape == (80, 1, 8, 8)
    assert "rows: 0, 1, 2" in words


def test_permuted_labels_give_other_numbers(binary_digits: Dataset) -> None:
    model, x, context = (
        conditional(binary_digits),
        binary_digits.examples("test"),
        binary_digits.context("test"),
    )
    y = context.y
    assert y is not None
    own = log_marginal(model, x, context, samples=5, seed=0)
    assert torch.equal(own, log_marginal(model, x, context, samples=5, seed=0))
    assert not torch.allclose(
        own, log_marginal(model, x, Context(y=(y + 1) % 10), samples=5, seed=0)
    )


def test_classes_keep_their_names() -> None:
    x = np.random.default_rng(0).normal(size=(40, 2))
    data = lb.data.from_arrays(x, np.array(["cat", "ant"] * 20))
    assert data.classes == ("ant", "cat")
    assert data.condition == 2
    numbers = lb.data.from_arrays(x, np.array([7, -3] * 20))
    assert numbers.classes == ("-3", "7")
    assert numbers["train"].y is not None
    assert set(numbers["train"].y.tolist()) == {0, 1}
    # another file of the same kind has the same numbers for the same names, whichever of them it
    # holds
    again = lb.data.from_arrays(
        x[:10], np.array(["cat"] * 10), classes=data.options["classes"], splits="all"
    )
    assert again["all"].y is not None
    assert again["all"].y.tolist() == [1] * 10
    with pytest.raises(ValueError, match="unknown label 'dog'"):
        lb.data.from_arrays(x, np.array(["dog"] * 40), classes=["ant", "cat"])


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (None, "conditioned on y, one of 10 classes, and there is none"),
        (torch.tensor([10, 0]), "numbered 0 to 9, and y holds 10"),
        (torch.tensor([-1, 0]), "numbered 0 to 9, and y holds -1"),
        (torch.tensor([1.0, 2.0]), "whole numbers"),
        (torch.arange(3), r"y has the shape \(3,\), and \(2,\) is needed"),
        (torch.tensor([[1], [2]]), r"y has the shape \(2, 1\), and \(2,\) is needed"),
    ],
)
def test_a_y_that_is_not_what_was_asked_for_is_refused(
    binary_digits: Dataset, y: Tensor | None, words: str
) -> None:
    model, x = conditional(binary_digits), torch.zeros(2, 1, 8, 8)
    for verb in (
        lambda c: model(x, c),
        lambda c: model.sample(2, context=c),
        lambda c: model.reconstruct(x, c),
    ):
        with pytest.raises(ValueError, match=words):
            verb(Context(y=y))


def test_what_does_not_fit_is_refused_in_one_line(
    binary_digits: Dataset, small_model: lb.VAE
) -> None:
    with pytest.raises(ValueError, match="y in the context is of 3 examples, and 5 are asked for"):
        small_model.sample(5, context=Context(y=torch.arange(3)))
    with pytest.raises(
        ValueError, match="the parts disagree on what y is: prior None, posterior 10, likelihood 3"
    ):
        lb.VAE(
            lb.priors.StandardNormal((2,)),
            lb.posteriors.DiagonalNormal((4,), (2,), condition=10),
            lb.likelihoods.Normal((2,), (4,), condition=3),
        )
    for wrong in (0, True, "y"):
        with pytest.raises((ValueError, TypeError), match="condition is"):
            lb.likelihoods.Normal((2,), (4,), condition=wrong)
    with pytest.raises(ValueError, match=r"p\(z\|y\): say what y is by condition"):
        lb.priors.ConditionalNormal((2,), None)
    unlabelled = lb.data.from_arrays(binary_digits.examples("test").numpy())
    for act in (lambda m, d: lb.fit(m, lb.objectives.ELBO(), d, progress=False), lb.evaluate):
        with pytest.raises(
            ValueError, match="conditioned on 10 classes, and the data has no labels"
        ):
            act(conditional(binary_digits), unlabelled)
    with pytest.raises(ValueError, match="strip takes y from x, and Bernoulli draws x anew"):
        lb.data.load("digits", binarize="dynamic", strip=[3, 4])
    with pytest.raises(ValueError, match="columns 0 to 7"):
        lb.data.load("digits", strip=[3, 8])


def test_pseudo_inputs_have_no_y_so_a_posterior_that_needs_one_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match="VampPrior asks for q.* no y, and DiagonalNormal is given y; use another prior",
    ):
        lb.VAE(
            lb.priors.VampPrior((2,), (4,), components=3),
            lb.posteriors.DiagonalNormal((4,), (2,), condition=10),
            lb.likelihoods.Normal((2,), (4,)),
        )


# a fixture
def test_the_command_line_conditions_and_samples_by_label(command: Command) -> None:  # noqa: F811
    options = [
        "--posterior.condition",
        "y",
        "--likelihood.condition",
        "y",
        "--prior",
        "ConditionalNormal",
        "--latent",
        2,
    ]
    how = [
        "--data.binarize",
        "threshold",
        "--epochs",
        1,
        "--samples",
        2,
        "--no-report",
        "--out",
        "run",
    ]
    code, _, err = command("train", "digits", *options, *how)
    assert code == 0, err
    config = Run("run").config()
    assert [config[role]["condition"] for role in ("prior", "posterior", "likelihood")] == [
        10,
        10,
        10,
    ]
    assert command("sample", "run", "--out", "all.npy")[0] == 0
    assert np.load("all.npy").shape == (100, 1, 8, 8)
    assert command("sample", "run", "--label", "3", "-n", 7, "--out", "threes.npy")[0] == 0
    assert np.load("threes.npy").shape == (7, 1, 8, 8)
    for verb in (("reconstruct",), ("traverse",), ("interpolate",), ("manifold", "--label", "3")):
        code, _, err = command(verb[0], "run", *verb[1:], "--out", "picture.png")
        assert code == 0, err
    code, _, err = command("sample", "run", "--label", "ten", "--out", "x.npy")
    assert (code, err.count("\n")) == (2, 1)
    assert "unknown label 'ten'" in err
    np.save("plain.npy", np.zeros((20, 1, 8, 8)))
    code, _, err = command("train", "plain.npy", "--posterior.condition", "y", "--out", "other")
    assert (code, err.count("\n")) == (2, 1)
    assert "posterior.condition is y, and" in err


# a fixture
def test_samples_of_a_table_say_which_class_they_are_of(command: Command) -> None:  # noqa: F811
    kinds = ["oak", "elm", "ash"]
    rows = [f"{i % 3 + 0.01 * i},{kinds[i % 3]}" for i in range(60)]
    Path("trees.csv").write_text("\n".join(["height,kind", *rows]))
    options = [
        "--posterior.condition",
        "y",
        "--likelihood.condition",
        "y",
        "--likelihood",
        "Normal",
        "--latent",
        1,
    ]
    how = ["--epochs", 1, "--samples", 2, "--no-report", "--out", "run"]
    code, _, err = command("train", "trees.csv", "--data.labels", "kind", *options, *how)
    assert code == 0, err
    assert command("sample", "run", "-n", 2, "--out", "each.csv")[0] == 0
    header, *drawn = Path("each.csv").read_text().split()
    assert header == "height,kind"
    assert [row.split(",")[1] for row in drawn] == ["ash", "ash", "elm", "elm", "oak", "oak"]
    assert command("sample", "run", "-n", 3, "--label", "oak", "--out", "oaks.csv")[0] == 0
    again = lb.data.load(
        "oaks.csv", labels="kind", splits="all"
    )  # it is a table that can be read again
    assert (len(again["all"]), again.classes) == (3, ("oak",))
