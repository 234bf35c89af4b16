"""M2: bounds of log p(x) and log p(x, y), where both are known by integration; and what it learns
from few labels.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from lowerbound.evaluation import log_marginal
from lowerbound.objective import Step
from lowerbound.roles import Context
from tests.cli.conftest import Command, command  # noqa: F401  the fixture
from tests.contracts import check_gradients, within

CLASSES = 3


def small() -> lb.models.M2:
    """One z and three labels, in float64."""
    torch.manual_seed(1)
    network = partial(lb.networks.MLP, hidden=(32,))
    model = lb.models.M2(
        prior=lb.priors.ConditionalNormal((1,), CLASSES),
        posterior=lb.posteriors.DiagonalNormal((4,), (1,), network, condition=CLASSES),
        likelihood=lb.likelihoods.Bernoulli((1,), (4,), network, condition=CLASSES),
        classifier=partial(lb.networks.MLP, hidden=(8,)),
        alpha=3.0,
    ).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    return model


def exact(model: lb.models.M2, x: Tensor) -> Tensor:
    """Log p(x, y) for every y, (B, C), by the trapezoid rule over z."""
    z = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None, None].expand(-1, len(x), -1)
    every = []
    with torch.no_grad():
        for y in range(CLASSES):
            vector = torch.eye(CLASSES, dtype=torch.float64)[y].expand(*z.shape[:2], -1)
            every.append(torch.logsumexp(model.log_joint(x, (vector, z)), 0) + math.log(24 / 4000))
    return torch.stack(every, 1)


X = (torch.rand(6, 4, generator=torch.Generator().manual_seed(0)) < 0.5).double()
Y = torch.tensor([0, 1, 2, -1, -1, 1])


def test_weights_are_those_of_log_p_of_x_and_where_the_label_is_known_of_log_p_of_x_and_y() -> None:
    model = small()
    joint = exact(model, X)
    truth = torch.where(Y >= 0, joint[torch.arange(6), Y.clamp_min(0)], torch.logsumexp(joint, 1))
    with torch.no_grad():
        draw = model.train()(X, Context(y=Y), samples=20_000)
        assert torch.allclose(draw.iwae, truth, atol=0.02)
        assert torch.allclose(draw.log_m.exp().sum(0), torch.ones(6).double())
        for closed, sampled in zip(
            draw.rates_by("closed_form"), draw.rates_by("sampled"), strict=True
        ):
            assert torch.allclose(
                closed, sampled, atol=0.05
            )  # each label's KL counts by its weight
        bound = -draw.distortion - draw.rate
        assert bool((bound <= truth + 0.02).all())
        # the bound of the paper, from those of each label: sum_y q(y|x) (-L(x, y)) + H(q(y|x))
        q = model.label(X)
        per_label = [
            model(X, Context(y=torch.full((6,), y)), samples=20_000) for y in range(CLASSES)
        ]
        labelled = torch.stack([-d.distortion - d.rate for d in per_label], 1)
        unlabelled = (q.probs * labelled).sum(1) + q.entropy()
        assert torch.allclose(bound[3:5], unlabelled[3:5], atol=0.05)
        assert torch.allclose(bound[:3], labelled[torch.arange(3), Y[:3]], atol=0.05)


def test_in_evaluation_labels_are_not_used_and_the_evidence_is_that_of_x() -> None:
    model = small().eval()
    truth = torch.logsumexp(exact(model, X), 1)
    log_p = log_marginal(model, X, Context(y=Y), samples=5000, seed=0)
    assert torch.allclose(log_p, truth, atol=0.05)
    assert torch.equal(log_p, log_marginal(model, X, samples=5000, seed=0))
    each = torch.stack([log_marginal(model, X, samples=1, seed=seed) for seed in range(400)])
    assert within((each - truth).exp().mean(1), 1.0)  # E[w] = p(x), also for K = 1


def test_gradients_are_those_of_finite_differences() -> None:
    model = small().train()

    def loss() -> Tensor:
        torch.manual_seed(3)
        return lb.objectives.ELBO(samples=2)(model(X, Context(y=Y), 2), Step(0.5, 6)).total

    check_gradients(loss, model)


def test_the_classification_loss_is_that_of_the_known_labels() -> None:
    model = small().train()
    penalty = model(X, Context(y=Y)).penalties["classification"]
    assert torch.equal(penalty[3:5], torch.zeros(2).double())
    expected = -3.0 * model.label(X).logits.log_softmax(-1)[torch.arange(3), Y[:3]]
    assert torch.allclose(penalty[:3], expected)


def test_ten_labels_of_each_digit_and_the_rest_unlabelled() -> None:
    data = lb.data.load("digits", labelled=100)
    y = data["train"].y
    assert y is not None
    assert torch.bincount(y[y >= 0]).tolist() == [10] * 10
    assert int((y == -1).sum()) == len(y) - 100
    again, other = (lb.data.load("digits", labelled=100, seed=seed)["train"].y for seed in (0, 1))
    assert again is not None
    assert other is not None
    assert torch.equal(y, again)
    assert not torch.equal(y, other)
    assert data["test"].y is not None
    assert data["test"].y.min() == 0
    with pytest.raises(
        ValueError, match="labelled is 105: it must be a multiple of the 10 classes"
    ):
        lb.data.load("digits", labelled=105)
    with pytest.raises(ValueError, match="has no classes"):
        lb.data.from_arrays(torch.rand(40, 2).numpy(), labelled=4)


def test_every_batch_holds_its_share_of_labelled_examples_and_all_take_their_turn() -> None:
    data = lb.data.load("digits", labelled=50, labelled_share=0.3)
    y = data["train"].y
    assert y is not None
    n, known = len(y), y >= 0
    orders = [data.order("train", 0, epoch) for epoch in (1, 2)]
    for order in orders:
        held = known[order]
        assert len(order) == n
        assert all(abs(int(batch.sum()) - 0.3 * len(batch)) <= 1 for batch in held.split(10))
        times = torch.bincount(order, minlength=n)
        assert times[known].max() - times[known].min() <= 1  # one order of all after another
        assert times[~known].max() == 1
    assert not torch.equal(*orders)
    assert torch.equal(orders[0], data.order("train", 0, 1))
    assert (
        torch.bincount(torch.cat([data.order("train", 0, e) for e in range(20)]), minlength=n) > 0
    ).all()
    assert sorted(data.order("test", 0, 1).tolist()) == list(range(180))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"labelled": 50, "labelled_share": 1.0},
            "labelled_share is 1.0: it must lie between 0 and 1",
        ),
        ({"labelled_share": 0.5}, "say how many by labelled"),
    ],
)
def test_a_share_that_cannot_be_is_refused(options: dict[str, float], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        lb.data.load("digits", **options)


def semi(data: Dataset) -> lb.models.M2:
    torch.manual_seed(0)
    network = partial(lb.networks.MLP, hidden=(64,))
    return lb.models.M2(
        lb.priors.StandardNormal((4,)),
        lb.posteriors.DiagonalNormal(data.event_shape, (4,), network, condition=10),
        lb.likelihoods.Bernoulli((4,), data.event_shape, network, condition=10),
        network,
        alpha=1.5,
    )


def test_it_learns_from_few_labels_and_is_saved_and_reloaded(tmp_path: Path) -> None:
    data = lb.data.load("digits", binarize="threshold", labelled=100)
    model = semi(data)
    history = lb.fit(
        model,
        lb.objectives.ELBO(),
        data,
        epochs=15,
        learning_rate=5e-3,
        progress=False,
        out=tmp_path / "run",
    )
    result = lb.evaluate(model, data, samples=5)
    assert {"rate/y", "rate/z"} <= set(history.epochs[0]["valid"])
    assert [level.name for level in result.levels] == ["y", "z"]
    assert "rate/y" in str(result)
    assert result.accuracy is not None
    assert result.accuracy.value > 0.6  # chance is 0.1
    assert not result.conditional
    again = lb.load(tmp_path / "run")
    assert lb.evaluate(again, data, samples=5) == result
    x = data.examples("test")
    assert model.reconstruct(x[:3]).shape == (3, 1, 8, 8)
    assert model.encode(x[:3])[:, :10].sum(1).tolist() == [1, 1, 1]
    assert model.sample(5, seed=0).shape == (5, 1, 8, 8)
    threes = model.sample(200, seed=0, context=Context(y=torch.tensor([3])))
    assert (
        model.classify(threes) == 3
    ).float().mean() > 0.25  # of so short a training; chance is 0.1


def test_the_command_line_trains_and_shows_it(command: Command) -> None:  # noqa: F811  a fixture
    options = [
        "--model",
        "M2",
        "--posterior.condition",
        "y",
        "--likelihood.condition",
        "y",
        "--latent",
        3,
    ]
    data = ["--data.binarize", "threshold", "--data.labelled", 100]
    code, _, err = command(
        "train", "digits", *options, *data, "--epochs", 1, "--samples", 3, "--out", "run"
    )
    assert code == 0, err
    assert "accuracy" in command("evaluate", "run", "--samples", 3)[1]
    for verb in ("sample", "reconstruct", "traverse", "interpolate"):
        code, _, err = command(verb, "run", "--out", "picture.png")
        assert code == 0, err
    assert command("sample", "run", "--label", "3", "--out", "threes.npy")[0] == 0


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    prior, likelihood = (
        lb.priors.StandardNormal((2,)),
        lb.likelihoods.Normal((2,), (4,), condition=3),
    )
    with pytest.raises(ValueError, match="M2 gives the label to posterior and likelihood"):
        lb.models.M2(prior, lb.posteriors.DiagonalNormal((4,), (2,)), likelihood)
    posterior = lb.posteriors.DiagonalNormal((4,), (2,), condition=3)
    with pytest.raises(ValueError, match="alpha is -1"):
        lb.models.M2(prior, posterior, likelihood, alpha=-1)
    with pytest.raises(ValueError, match="M2 sums over the label"):
        lb.models.M2(prior, posterior, likelihood)(torch.zeros(2, 4), path_gradient=True)
    model = lb.models.M2(prior, posterior, likelihood).train()
    for wrong in (3, -2):
        with pytest.raises(ValueError, match=f"labels 0 to 2, and -1 for unknown; y holds {wrong}"):
            model(torch.zeros(2, 4), Context(y=torch.tensor([0, wrong])))


def test_what_is_missing_stands_at_its_mean_for_both_posteriors() -> None:
    x, mask = 100 + torch.randn(20, 4), torch.ones(20, 4, dtype=torch.bool)
    mask[:, 0] = False
    posterior = lb.posteriors.DiagonalNormal((4,), (2,), condition=3)
    model = lb.models.M2(
        lb.priors.StandardNormal((2,)), posterior, lb.likelihoods.Normal((2,), (4,), condition=3)
    )
    model.learn_units(x)
    with torch.no_grad():
        at_mean = torch.where(mask, x, x.mean(0))
        qy, qz = (latent.q for latent in model(x, Context(mask=mask)).latents)
        assert torch.allclose(qy.probs, model.label(at_mean).probs, atol=1e-4)
        every = Context(y=torch.arange(3)[:, None])
        assert torch.allclose(qz.mean, posterior(at_mean, every).mean, atol=1e-4)
