"""How examples are batched and ordered changes nothing but rounding, and training and evaluation
are on one scale.

At the exact posterior every importance weight is the evidence, whatever is drawn: the truth is
known, and noise cannot hide an example that is counted twice, or not at all.
"""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

import lowerbound as lb
from lowerbound.data.dataset import Dataset, Split
from lowerbound.draw import Draw
from lowerbound.objective import Step, Terms
from lowerbound.training import validation
from tests.composition import halves
from tests.conftest import make_model
from tests.test_exact import D, ppca

N = 130  # a multiple of no batch size below but the first
BATCHES = (130, 64, 7)


def exact_model() -> tuple[lb.VAE, MultivariateNormal]:
    """A linear VAE at its exact posterior, and p(x)."""
    model, _, _ = ppca()
    layer = model.likelihood.net.layers[0]
    weight, variance = layer.weight.detach(), model.likelihood.log_scale.detach().exp() ** 2
    return model, MultivariateNormal(
        layer.bias.detach(), weight @ weight.T + variance * torch.eye(D).double()
    )


def unit_data(splits: str) -> Dataset:
    """The identity holds at every x; on [0, 1] the data keep their units."""
    return lb.data.from_arrays(torch.rand(N, D).double(), splits=splits)


def reordered(data: Dataset, split: str, order: Tensor) -> Dataset:
    splits = {**data.splits, split: Split(data[split].values[order])}
    return Dataset(None, splits, data.stored_support, data.transforms)


@pytest.mark.parametrize("batch_size", BATCHES)
def test_evaluation_is_the_mean_over_all_examples_whatever_the_batch_and_the_order(
    batch_size: int,
) -> None:
    model, truth = exact_model()
    data = unit_data("all")
    exact = -truth.log_prob(data.examples("all").double())
    for order in (torch.arange(N), torch.randperm(N)):
        nll = lb.evaluate(
            model, reordered(data, "all", order), split="all", samples=3, batch_size=batch_size
        ).nll
        assert nll.n == N
        assert nll.value == pytest.approx(exact.mean().item(), rel=1e-8)
        assert nll.stderr == pytest.approx(exact.std().item() / math.sqrt(N), rel=1e-8)


@pytest.mark.parametrize("batch_size", BATCHES)
def test_the_epochs_means_are_those_of_all_examples_whatever_the_batch(
    batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a vanishing step the loss of training and of validation is -log p(x), in float64 to
    eight digits.
    """
    monkeypatch.setattr(validation, "EXAMPLES_AT_ONCE", min(batch_size, 8))
    model, truth = exact_model()
    data = unit_data("train_valid_test")
    settings = {
        "epochs": 1,
        "batch_size": batch_size,
        "learning_rate": 1e-14,
        "precision": "64-true",
        "progress": False,
    }
    history = lb.fit(model, lb.objectives.ELBO(kl="sampled"), data, **settings)
    for split in ("train", "valid"):
        exact = truth.log_prob(data.examples(split).double()).mean().item()
        assert history.series("elbo", split)[0] == pytest.approx(exact, rel=1e-8)
        assert history.series("loss", split)[0] == pytest.approx(-exact, rel=1e-8)


def test_every_example_is_seen_once_an_epoch() -> None:
    seen: list[Tensor] = []

    class Watching(lb.posteriors.DiagonalNormal):
        """Keeps what it is shown in training."""

        def forward(self, x: Tensor, context: object) -> Distribution:
            if self.training:
                seen.append(x.detach())
            return super().forward(x, context)

    data = unit_data("all")
    data = Dataset(None, {"train": data["all"]}, data.stored_support)
    prior, likelihood = lb.priors.StandardNormal((2,)), lb.likelihoods.Normal((2,), (D,))
    model = lb.VAE(prior, Watching((D,), (2,)), likelihood)
    lb.fit(model, lb.objectives.ELBO(), data, epochs=2, batch_size=50, progress=False)
    assert [len(x) for x in seen] == [50, 50, 30] * 2
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert not torch.equal(first, second)  # in another order
    for epoch in (first, second):
        assert torch.equal(
            epoch[epoch[:, 0].argsort()],
            data.examples("train")[data.examples("train")[:, 0].argsort()],
        )


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_an_example_that_cannot_be_scored_is_never_left_out(bad: float) -> None:
    """A model that gives an example no probability has no finite nll, and the mean over the others
    is not it.

    Evaluation refuses and says how many and which; training gives the epoch no mean.
    """

    class Blind(lb.likelihoods.Normal):
        """Has no density for one example."""

        def log_prob(self, px: Distribution, x: Tensor, mask: Tensor | None) -> Tensor:
            return torch.where(x[:, 0] == x_bad, bad, super().log_prob(px, x, mask))

    data = unit_data("train_valid_test")
    model = lb.VAE(
        lb.priors.StandardNormal((2,)),
        lb.posteriors.DiagonalNormal((D,), (2,)),
        Blind((2,), (D,), scale=0.5),
    )
    for split in ("test", "train", "valid"):
        x_bad, n = data.examples(split)[5, 0], len(data[split])
        message = rf"2 of {2 * n} log-weights are not finite, of 1 of {n} examples \(numbers 5\)"
        with pytest.raises(ValueError, match=message):
            lb.evaluate(model, data, split=split, samples=2, batch_size=4)
        with pytest.raises(ValueError, match=message):
            lb.evaluation.log_marginal(model, data.examples(split), samples=2)
    history = lb.fit(
        model,
        lb.objectives.ELBO(),
        reordered(data, "valid", torch.tensor([0, 1])),
        epochs=1,
        progress=False,
    )
    assert history.series("elbo", "valid")[0] is not None
    x_bad = data.examples("train")[5, 0]
    history = lb.fit(model, lb.objectives.ELBO(), data, epochs=1, batch_size=10, progress=False)
    assert history.series("elbo")[0] is None
    assert history.series("loss")[0] is None


@pytest.mark.parametrize("likelihood", lb.likelihoods.__all__)
def test_training_and_evaluation_are_on_one_scale(
    likelihood: str, digits: Dataset, binary_digits: Dataset
) -> None:
    """No constant is dropped in one of them: in 64 dimensions, half of log 2 pi for each would be
    58.8 nats.
    """
    with_levels = ("Categorical", "DiscretizedLogisticMixture")
    data = binary_digits if likelihood in ("Bernoulli", "NegativeBinomial") else digits
    settings = {"groups": halves(data.event_shape)} if likelihood == "Product" else {}
    settings |= {"levels": 17} if likelihood in with_levels else {}
    model = make_model(data, likelihood=likelihood, **settings)
    history = lb.fit(
        model, lb.objectives.ELBO(), data, epochs=1, learning_rate=1e-12, progress=False
    )
    for split in ("train", "valid"):
        result = lb.evaluate(model, data, split=split, samples=5)
        with torch.no_grad():
            spread = (
                model(data.examples(split), samples=5).log_px.std(0).square().mean().sqrt().item()
            )
        error = spread * math.sqrt((1 + 1 / 5) / len(data[split]))
        score = result.distortion or result.cross_entropy
        name = "distortion" if result.distortion else "cross_entropy"
        # 0.1: an optimal scale is the batch's in training and the mean of the batches' in
        # evaluation
        slack = 4 * error + 0.1 * (likelihood == "OptimalNormal" and split == "train") + 1e-4
        assert abs(history.series(name, split)[0] - score.value) < slack
        assert (
            abs(history.series("loss", split)[0] - score.value - result.rate.value) < slack + 1e-3
        )


@pytest.mark.parametrize("samples", [1, 3, 250, 1000])
def test_exactly_as_many_draws_are_made_as_are_asked_for(samples: int) -> None:
    model, _ = exact_model()
    draws: Counter[bytes] = Counter()

    def count(module: object, args: tuple[torch.Tensor, ...], draw: Draw) -> None:
        draws.update({x.numpy().tobytes(): draw.log_w.shape[0] for x in args[0]})

    model.register_forward_hook(count)
    result = lb.evaluate(model, unit_data("all"), split="all", samples=samples, batch_size=100)
    assert len(draws) == N
    assert set(draws.values()) == {samples + 1}  # one more each, for the aggregate posterior
    assert result.samples == samples


def test_an_objective_is_given_the_draws_it_asks_for() -> None:
    class Watching(lb.objectives.ELBO):
        """Keeps how many draws it is shown."""

        def terms(self, draw: Draw, step: Step) -> Terms:
            seen.add(draw.log_w.shape[0])
            return super().terms(draw, step)

    seen: set[int] = set()
    model, _ = exact_model()
    lb.fit(
        model,
        Watching(kl="sampled", samples=7),
        unit_data("train_valid_test"),
        epochs=1,
        progress=False,
    )
    assert seen == {7}
