"""Bounds by K draws on a model of known evidence, and estimators of their gradients that are not
the gradient of a value.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import lowerbound as lb
from lowerbound.objective import Objective, Step
from tests.known_models import TwoLatents, on_a_grid
from tests.test_exact import N, ppca

END = Step(1.0, N)
OBJECTIVES = [
    lb.objectives.ELBO(kl="sampled", samples=5, path_gradient=True),
    lb.objectives.IWAE(samples=1),
    lb.objectives.IWAE(samples=5),
    lb.objectives.DReG(samples=5),
    lb.objectives.Renyi(alpha=0.5, samples=5),
    lb.objectives.Renyi(alpha=2.0, samples=5),
]
PATH = [
    # an objective with path gradients, and the one whose gradient it has in expectation
    (
        lb.objectives.ELBO(samples=5, path_gradient=True),
        lb.objectives.ELBO(kl="sampled", samples=5),
    ),
    (lb.objectives.DReG(samples=5), lb.objectives.IWAE(samples=5)),
]


def bound(objective: Objective, model: lb.VAE, x: Tensor, seed: int = 0) -> Tensor:
    """-loss of each example."""
    torch.manual_seed(seed)
    with torch.no_grad():
        return -objective.terms(
            model(x, None, objective.samples, objective.path_gradient), END
        ).loss


def gradients(
    objective: Objective, model: torch.nn.Module, x: Tensor, seed: int
) -> dict[str, Tensor]:
    """The gradient of each part's parameters, in one vector a part."""
    model.zero_grad()
    torch.manual_seed(seed)
    objective.terms(
        model(x, None, objective.samples, objective.path_gradient), END
    ).total.backward()
    return {
        role: torch.cat(
            [p.grad.flatten() for p in getattr(model, role).parameters() if p.requires_grad]
        )
        for role in ("posterior", "likelihood")
    }


def standard_error(values: Tensor) -> float:
    return float(values.std()) / math.sqrt(len(values))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_at_the_exact_posterior_each_is_the_evidence(objective: Objective) -> None:
    model, x, exact = ppca()
    assert torch.allclose(bound(objective, model, x), exact, rtol=1e-8, atol=0)


@pytest.mark.parametrize(
    "objective",
    [
        lb.objectives.BetaTC(1.0, 1.0, 1.0),
        lb.objectives.BetaTC(alpha=2.0, beta=1.0, gamma=1.0),
        lb.objectives.MMD(beta=1.0, weight=20.0),
        lb.objectives.FactorVAE((1,), gamma=0.0),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_what_compares_examples_and_is_called_a_bound_lies_below_the_evidence_too(
    objective: Objective,
) -> None:
    """The loss of a batch, with its statistic, in mean over batches."""
    model, x, exact = on_a_grid()
    objective = objective.double()
    assert objective.is_bound
    torch.manual_seed(0)
    with torch.no_grad():
        slack = torch.stack(
            [-objective.terms(model(x), END).total - exact.mean() for _ in range(50)]
        )
    assert -5 < slack.mean() <= 4 * standard_error(slack)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_with_an_inflated_posterior_each_lies_below_the_evidence(objective: Objective) -> None:
    model, x, exact = ppca(inflation=1.5)
    assert objective.is_bound
    slack = bound(objective, model, x) - exact
    assert -2 < slack.mean() <= 4 * standard_error(slack)


def test_the_importance_weighted_bound_rises_with_the_draws() -> None:
    model, x, exact = ppca(inflation=1.5)
    x, exact = x.repeat(16, 1), exact.repeat(16)  # fresh noise for each copy
    bounds = [bound(lb.objectives.IWAE(samples=k), model, x, seed=k) for k in (1, 5, 50)]
    for lower, upper in zip(bounds, [*bounds[1:], exact], strict=True):
        assert (upper - lower).mean() > 2 * standard_error(upper - lower)


@pytest.mark.parametrize(("path", "ordinary"), PATH, ids=lambda objective: type(objective).__name__)
@pytest.mark.parametrize("latents", [1, 2])
def test_a_path_gradient_is_the_ordinary_one_in_expectation(
    path: Objective, ordinary: Objective, latents: int
) -> None:
    """With the same noise: of the likelihood to rounding; of the posterior in mean, entry by
    entry.
    """
    model, x = (
        ppca(inflation=1.5)[:2] if latents == 1 else (TwoLatents(), torch.randn(16, 4).double())
    )
    x = x[:16].repeat(250, 1)  # many draws at once
    differences = []
    for seed in range(60):
        ours, theirs = (gradients(objective, model, x, seed) for objective in (path, ordinary))
        assert torch.allclose(ours["likelihood"], theirs["likelihood"], rtol=1e-9, atol=1e-12)
        differences.append(ours["posterior"] - theirs["posterior"])
    difference = torch.stack(differences)
    assert (
        int((difference.std(0) > 1e-3).sum()) >= 17
    )  # another estimator, of all but what is above a diagonal
    assert bool(
        (
            difference.mean(0).abs() <= 4.5 * difference.std(0) / math.sqrt(len(difference)) + 1e-12
        ).all()
    )


@pytest.mark.parametrize(("path", "ordinary"), PATH, ids=lambda objective: type(objective).__name__)
def test_a_path_gradient_has_no_variance_at_the_exact_posterior(
    path: Objective, ordinary: Objective
) -> None:
    model, x, _ = ppca()
    ours, theirs = (
        gradients(objective, model, x, seed=0)["posterior"] for objective in (path, ordinary)
    )
    assert theirs.norm() > 0.01
    assert ours.norm() < 1e-8 * theirs.norm()


@pytest.mark.parametrize(
    "objective", [path for path, _ in PATH], ids=lambda objective: type(objective).__name__
)
def test_batch_statistics_move_once_a_step(objective: Objective) -> None:
    def network(in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.BatchNorm1d(6), lb.networks.MLP(in_shape, out_shape))

    model = lb.VAE(
        prior=lb.priors.StandardNormal((2,)),
        posterior=lb.posteriors.DiagonalNormal((6,), (2,), network=network),
        likelihood=lb.likelihoods.Normal((2,), (6,)),
    )
    data = lb.data.from_arrays(torch.rand(100, 6).numpy(), splits="train_valid_test")
    lb.fit(model, objective, data, epochs=2, batch_size=20, progress=False)
    assert model.posterior.net[0].num_batches_tracked.item() == 2 * math.ceil(
        len(data["train"]) / 20
    )


def test_the_bounds_are_ordered_from_the_elbo_to_the_evidence() -> None:
    """On the same draws for each example, by the inequality of power means; and in mean all lie
    below log p(x).
    """
    model, x, exact = ppca(inflation=1.5)
    ordered = [
        lb.objectives.Renyi(alpha=2.0, samples=5),
        lb.objectives.ELBO(kl="sampled", samples=5),
        lb.objectives.Renyi(alpha=0.5, samples=5),
        lb.objectives.IWAE(samples=5),
    ]
    bounds = [bound(objective, model, x) for objective in ordered]
    for lower, upper in pairwise(bounds):
        assert bool((lower <= upper + 1e-12).all())
        assert (upper - lower).mean() > 0.01
    assert (bounds[-1] - exact).mean() <= 4 * standard_error(bounds[-1] - exact)


def test_of_negative_order_it_may_lie_above_the_evidence() -> None:
    model, x, exact = ppca(inflation=0.7)
    objective = lb.objectives.Renyi(alpha=-1.0, samples=200)
    slack = bound(objective, model, x) - exact
    assert not objective.is_bound
    assert slack.mean() > 4 * standard_error(slack)
