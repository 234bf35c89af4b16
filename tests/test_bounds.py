"""Bounds by K draws on a model of known evidence, and estimators of their gradients that are not the gradient of a value."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import lowerbound as lb
from lowerbound.objective import Objective, Step
from tests.test_exact import N, ppca

END = Step(1.0, N)
OBJECTIVES = [lb.objectives.IWAE(samples=1), lb.objectives.IWAE(samples=5)]


def bound(objective: Objective, model: lb.VAE, x: Tensor, seed: int = 0) -> Tensor:
    """-loss of each example."""
    torch.manual_seed(seed)
    with torch.no_grad():
        return -objective.terms(model(x, None, objective.samples, objective.path_gradient), END).loss


def standard_error(values: Tensor) -> float:
    return float(values.std()) / math.sqrt(len(values))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_at_the_exact_posterior_each_is_the_evidence(objective: Objective) -> None:
    model, x, exact = ppca()
    assert torch.allclose(bound(objective, model, x), exact, rtol=1e-8, atol=0)


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
