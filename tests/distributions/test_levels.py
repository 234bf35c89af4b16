import torch
from torch.distributions import Categorical

from lowerbound.distributions import LevelCategorical
from tests.contracts import within


def test_agrees_with_the_categorical_over_names() -> None:
    logits = torch.randn(5, 9)
    px, names = LevelCategorical(logits), Categorical(logits=logits)
    index = torch.randint(0, 9, (7, 5))
    assert torch.allclose(px.log_prob(index / 8), names.log_prob(index))


def test_mean_and_variance_are_those_of_the_levels() -> None:
    px = LevelCategorical(torch.randn(9))
    x = px.sample((20000,))
    assert within(x, px.mean)
    assert within((x - px.mean) ** 2, px.variance)


def test_the_variance_of_a_sharp_distribution_does_not_round_below_zero() -> None:
    px = LevelCategorical(50 * torch.randn(2000, 17))
    assert px.variance.min() >= 0
    exact = LevelCategorical(px.categorical.logits.double())
    assert torch.allclose(px.variance.double(), exact.variance, rtol=1e-3, atol=1e-9)
