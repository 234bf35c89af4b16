"""The log-scale that every likelihood with a spread learns in the same four ways."""

from __future__ import annotations

import math

import pytest
import torch

from lowerbound.likelihoods._scale import LearnedScale, Spread
from lowerbound.shapes import Shape

X = (2, 3)
START = torch.arange(6.0).reshape(X)


@pytest.mark.parametrize(("setting", "shape"), [(0.5, ()), ("shared", ()), ("per_dimension", X)])
def test_what_is_learned_has_a_parameter_of_its_own_shape(setting: Spread, shape: Shape) -> None:
    scale = LearnedScale(setting, X, pace=10.0)
    assert scale.slow.shape == shape
    assert scale.slow.requires_grad == isinstance(setting, str)
    assert scale.out_shape == X


def test_a_fixed_scale_is_the_number_whatever_the_start() -> None:
    scale = LearnedScale(0.3, X, pace=10.0)
    out = torch.randn(7, *X)
    loc, log_scale = scale(out, START)
    assert torch.equal(loc, out)
    assert log_scale.item() == pytest.approx(math.log(0.3), rel=1e-6)


@pytest.mark.parametrize("setting", ["shared", "per_dimension", "network"])
def test_learning_starts_where_the_data_are(setting: Spread) -> None:
    scale = LearnedScale(setting, X, pace=10.0)
    out = torch.zeros(7, *scale.out_shape)
    loc, log_scale = scale(out, START)
    assert loc.shape == (7, *X)
    assert torch.equal(log_scale.expand(7, *X), START.expand(7, *X))


@pytest.mark.parametrize("setting", ["shared", "per_dimension"])
def test_the_log_scale_moves_by_the_pace(setting: Spread) -> None:
    """A step of the parameter is so many nats, whatever the start."""
    scale = LearnedScale(setting, X, pace=7.0)
    before = scale.log_scale(START)
    with torch.no_grad():
        scale.slow += 0.25
    assert torch.allclose(scale.log_scale(START) - before, torch.tensor(7 * 0.25))


def test_that_of_the_network_is_the_second_half_of_what_it_gives() -> None:
    scale = LearnedScale("network", X, pace=10.0)
    assert not list(scale.parameters())
    out = torch.randn(7, 5, *scale.out_shape)
    loc, log_scale = scale(out, START)
    assert torch.equal(loc, out[:, :, 0])
    assert torch.equal(log_scale, out[:, :, 1] + START)


def test_zero_is_a_scale_only_where_it_is_said_what_it_means() -> None:
    with pytest.raises(ValueError, match="^scale is 0: it must be a positive number, or 'shared'"):
        LearnedScale(0, X, pace=10.0)
    assert LearnedScale(0, X, pace=5.0, log_of_zero=-60.0).log_scale(START).item() == -60


@pytest.mark.parametrize("setting", [-1, math.inf, math.nan, "learned", None, (1.0, 2.0)])
def test_anything_else_is_refused_in_one_line(setting: object) -> None:
    with pytest.raises(ValueError, match="^width is .*: it must be one of mine, or 'shared'"):
        LearnedScale(setting, X, pace=1.0, name="width", numbers="one of mine")  # type: ignore[arg-type]
