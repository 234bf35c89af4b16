"""Data on any scale train by default, and every number stays in the units of the data."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_diabetes

import lowerbound as lb
from lowerbound.units import Standardizer
from tests.conftest import make_model

SCALES = torch.tensor([1e-4, 1.0, 1e3, 1e6])


def table(factor: float = 1.0) -> torch.Tensor:
    torch.manual_seed(3)
    z = torch.randn(400, 2)
    return factor * (SCALES * (z @ torch.randn(2, 4) + 0.3 * torch.randn(400, 4)) + 100 * SCALES)


@pytest.mark.parametrize("likelihood", ["Normal", "OptimalNormal"])
@pytest.mark.parametrize("posterior", ["DiagonalNormal", "FullNormal"])
def test_columns_of_any_scale_are_learned(likelihood: str, posterior: str, tmp_path: Path) -> None:
    data = lb.data.from_arrays(table())
    settings = {"scale": "per_dimension"} if likelihood == "Normal" else {}
    model = make_model(data, 2, likelihood, **settings)
    model.posterior = getattr(lb.posteriors, posterior)((4,), (2,))
    history = lb.fit(
        model,
        lb.objectives.ELBO(),
        data,
        epochs=60,
        learning_rate=5e-3,
        out=tmp_path / "run",
        progress=False,
    )
    loss = history.series("loss", "valid")
    assert loss[-1] < loss[0]
    x = data.examples("test")
    spread = ((model.reconstruct(x) - x) / SCALES).std(0)
    better = spread < (x / SCALES).std(0)
    assert bool(
        better.all() if settings else better[-1]
    )  # where one scale is shared, the largest column is what counts
    assert torch.equal(
        lb.load(tmp_path / "run").encode(x), model.encode(x)
    )  # the units are saved with the weights


def test_another_unit_shifts_the_log_likelihood_by_its_jacobian_and_nothing_else() -> None:
    """log p(c x) = log p(x) - D log c: a model of metres and one of millimetres are the same
    model.
    """
    results = []
    for factor in (
        1.0,
        1024.0,
    ):  # a power of two, so that standardised values are equal to the last bit
        data = lb.data.from_arrays(table(factor))
        torch.manual_seed(0)
        model = make_model(data, 2, "Normal")
        lb.fit(model, lb.objectives.ELBO(), data, epochs=5, progress=False)
        results.append((lb.evaluate(model, data, samples=20), model.encode(data.examples("test"))))
    (one, codes), (other, same_codes) = results
    assert torch.allclose(codes, same_codes, atol=1e-4)
    assert other.nll.value == pytest.approx(one.nll.value + 4 * math.log(1024), abs=1e-2)
    assert other.rate.value == pytest.approx(one.rate.value, rel=1e-3)


def test_data_in_the_unit_interval_are_left_alone(digits: lb.data.Dataset) -> None:
    model = make_model(digits, likelihood="Normal")
    lb.fit(model, lb.objectives.ELBO(), digits, epochs=1, progress=False)
    assert not any(
        module.is_fitted for module in model.modules() if isinstance(module, Standardizer)
    )


def test_a_second_training_keeps_the_units_of_the_first() -> None:
    model = make_model(lb.data.from_arrays(table()), 2, "Normal")
    lb.fit(model, lb.objectives.ELBO(), lb.data.from_arrays(table()), epochs=1, progress=False)
    before = model.posterior.standardizer.scale.clone()
    lb.fit(
        model, lb.objectives.ELBO(), lb.data.from_arrays(table() * 1.1), epochs=1, progress=False
    )
    assert torch.equal(before, model.posterior.standardizer.scale)


def test_a_shared_scale_is_one_scale() -> None:
    data = lb.data.from_arrays(table())
    model = make_model(data, 2, "Normal")
    lb.fit(model, lb.objectives.ELBO(), data, epochs=1, progress=False)
    assert model(data.examples("test")).px.stddev.unique().numel() == 1
    fixed = make_model(data, 2, "Normal", scale=3.0)
    lb.fit(fixed, lb.objectives.ELBO(), data, epochs=1, progress=False)
    assert fixed(data.examples("test")).px.stddev.unique().tolist() == pytest.approx([3.0])


def test_a_real_table_in_its_own_units_trains_with_the_defaults() -> None:
    x = load_diabetes(scaled=False).data
    data = lb.data.from_arrays(x)
    model = make_model(data, 4, "Normal", scale="per_dimension")
    history = lb.fit(model, lb.objectives.ELBO(), data, epochs=20, progress=False)
    assert all(record["skipped_steps"] == 0 for record in history.epochs)
    assert history.series("elbo", "valid")[-1] > history.series("elbo", "valid")[0]


def test_an_entry_that_never_varies_keeps_its_scale() -> None:
    standardizer = Standardizer((2,))
    standardizer.learn(torch.tensor([[5.0, 1.0], [5.0, 2.0]]))
    assert standardizer.scale[0] == 1
    assert standardizer.standardize(torch.tensor([5.0, 1.5])).abs().max() < 1e-6


def test_units_that_are_loaded_are_known_and_unset_ones_leave_values_alone() -> None:
    x = torch.tensor([[0.0, 100.0], [2.0, 300.0]])
    standardizer, other, unset = Standardizer((2,)), Standardizer((2,)), Standardizer((2,))
    assert not other.is_fitted
    standardizer.learn(x)
    for own in (standardizer, other, unset):
        own.load_state_dict(
            Standardizer((2,)).state_dict() if own is unset else standardizer.state_dict()
        )
        assert own.is_fitted == (own is not unset)
    assert torch.equal(other.standardize(x), standardizer.standardize(x))
    assert torch.equal(other.unstandardize(x), standardizer.unstandardize(x))
    assert unset.standardize(x) is x
    assert unset.unstandardize(x) is x
