"""Values far from zero: every number is that of the same data near zero, in other units.

A density of a x + b is that of x over |a|, whatever b; so the log-density of the same table in
other units differs by the Jacobian, and by nothing else. Shifts and factors are powers of two and
the values lie on a grid, so that no digit is lost on the way and what is compared is exact.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import lowerbound as lb
from lowerbound.data.dataset import Stored
from lowerbound.data.decimals import decimals_of
from lowerbound.roles import Context, Group
from lowerbound.units import Standardizer
from tests.conftest import make_model

GRID = 2.0**-12
SHIFT, SCALE = 2.0**30, 2.0**-10  # about 1e9 and 1e-3: float32 has steps of 64 there


def near_zero(rows: int = 200) -> Tensor:
    """Correlated columns on a grid, float64."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(rows, 1, generator=generator)
    x = torch.cat([z, -z, 0.5 * z], 1) + 0.5 * torch.randn(rows, 3, generator=generator)
    return (x.double() / GRID).round() * GRID


def model_of(data: lb.data.Dataset, likelihood: str) -> lb.VAE:
    torch.manual_seed(0)
    if likelihood != "Product":
        settings = {"scale": "per_dimension"} if likelihood == "Normal" else {}
        return make_model(data, 2, likelihood, **settings)
    groups = {
        "first": Group([0, 2], partial(lb.likelihoods.Normal, scale="network")),
        "second": Group([1], lb.likelihoods.OptimalNormal),
    }
    model = make_model(data, 2, "Normal")
    model.likelihood = lb.likelihoods.Product((2,), data.event_shape, groups)
    return model


def trained(x: Tensor, likelihood: str, mask: Tensor | None = None) -> tuple[lb.VAE, float, Tensor]:
    """A model of some data, their nll, and their codes."""
    data = lb.data.from_arrays(x, mask=mask)
    model = model_of(data, likelihood)
    lb.fit(model, lb.objectives.ELBO(), data, epochs=5, batch_size=32, progress=False)
    codes = model.encode(data.examples("test"), data.context("test"))
    return model, lb.evaluate(model, data, samples=20).nll.value, codes


# Where the shift is 2^40 spreads, float64 rounds the mean to 1e-4 of a spread, which is then the
# zero of the standardised values: training starts that far off, and ends a few times 1e-4 off.
@pytest.mark.parametrize(
    ("shift", "scale", "tolerance"),
    [(SHIFT, 1.0, 1e-4), (2.0**20, SCALE, 1e-4), (SHIFT, SCALE, 1e-3)],
)
@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("likelihood", ["Normal", "OptimalNormal", "Product"])
def test_other_units_add_the_jacobian_and_nothing_else(
    likelihood: str, is_masked: bool, shift: float, scale: float, tolerance: float
) -> None:
    x = near_zero()
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.8
    observed = mask if is_masked else None
    _, nll, codes = trained(x, likelihood, observed)
    model, far, same_codes = trained(shift + scale * x, likelihood, observed)
    test = lb.data.from_arrays(x, mask=observed)["test"]
    entries = 3.0 if test.mask is None else test.mask.sum(1).double().mean().item()
    assert far == pytest.approx(nll + entries * math.log(scale), abs=tolerance)
    assert torch.allclose(codes, same_codes, atol=30 * tolerance)
    assert model.sample(5, seed=0).dtype == torch.float64


@pytest.mark.parametrize("likelihood", ["Normal", "OptimalNormal", "Product"])
def test_a_density_far_from_zero_is_the_same_near_it(likelihood: str) -> None:
    """The same weights at x and at x + b give the same log p(x, z), to the last digits."""
    x = near_zero(64)
    near, far = (model_of(lb.data.from_arrays(v), likelihood) for v in (x, x + SHIFT))
    far.load_state_dict(near.state_dict())
    near.learn_units(x)
    far.learn_units(x + SHIFT)
    for model in (near, far):
        model.eval()
    for one, other in zip(near.modules(), far.modules(), strict=True):
        if isinstance(one, Standardizer):
            other.loc.copy_(one.loc.double().mul(2**20).round().div(2**20) + SHIFT)
            one.loc.copy_(other.loc - SHIFT)
            other.scale.copy_(one.scale)
    z = torch.randn(4, 64, 2)
    assert torch.allclose(near.log_joint(x, (z,)), far.log_joint(x + SHIFT, (z,)), atol=1e-5)
    assert torch.allclose(near.decode(z).double(), far.decode(z) - SHIFT, atol=1e-5)
    px, qx = near.likelihood(z, Context()), far.likelihood(z, Context())
    assert torch.allclose(px.log_prob(x), qx.log_prob(x + SHIFT), atol=1e-5)
    assert torch.allclose(px.stddev.double(), qx.stddev.double(), atol=1e-6)


def test_examples_are_the_values_of_the_file(tmp_path: Path) -> None:
    x = (SHIFT + SCALE * near_zero()).numpy()
    np.save(tmp_path / "x.npy", x)
    for memory in ("load", "map"):
        data = lb.data.load(tmp_path / "x.npy", splits="all", memory=memory)
        assert data.dtype == torch.float64
        assert np.array_equal(data.examples("all").numpy(), x)
        assert np.array_equal(data.present("all", torch.arange(5)).numpy(), x[:5])


@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        (np.arange(100.0).reshape(50, 2), torch.float32),
        (170.3 + 9 * np.random.default_rng(0).normal(size=(50, 2)), torch.float32),
        (1.7e9 + 60 * np.arange(100.0).reshape(50, 2), torch.float64),  # times in seconds
        (2**24 + 1 + 10**6 * np.arange(100).reshape(50, 2), torch.float64),  # account numbers
        (0.5 + 1e-9 * np.random.default_rng(0).normal(size=(50, 2)), torch.float64),  # in [0, 1]
        (np.random.default_rng(0).lognormal(0, 3, size=(5000, 2)), torch.float32),  # a heavy tail
    ],
)
def test_float64_is_for_what_float32_would_change(x: np.ndarray, dtype: torch.dtype) -> None:
    data = lb.data.from_arrays(x)
    assert data.dtype == data.examples("test").dtype == dtype
    assert data.options["dtype"] == ("float64" if dtype == torch.float64 else "auto")
    assert lb.data.from_arrays(x, dtype="float64").dtype == torch.float64


def test_what_is_missing_does_not_decide_the_precision() -> None:
    """Missing entries are stored as zero, which is far from times in seconds."""
    x = 1.7e9 + np.arange(100.0)[:, None]
    x[:40] = np.nan
    assert lb.data.from_arrays(x, missing="marginalise").dtype == torch.float64


def test_a_column_that_float64_cannot_tell_apart_is_refused_and_one_stored_badly_told() -> None:
    x = np.array([[10**17 + 20 * i, i] for i in range(50)])
    with pytest.raises(ValueError, match=r"column 'id' lies near 1e\+17 .* subtract an offset"):
        lb.data.from_arrays(x, columns=["id", "n"])
    seconds = (1.7e9 + np.arange(500.0)[:, None]).astype(np.float32)
    with pytest.warns(UserWarning, match="float32 has steps of 128 there"):
        lb.data.from_arrays(seconds)


def test_units_are_saved_loaded_and_cast_in_float64(tmp_path: Path) -> None:
    data = lb.data.from_arrays(SHIFT + SCALE * near_zero())
    model = model_of(data, "Normal")
    lb.fit(model, lb.objectives.ELBO(), data, epochs=2, progress=False, out=tmp_path / "run")
    x, again = data.examples("test"), lb.load(tmp_path / "run")
    assert torch.equal(again.encode(x), model.encode(x))
    assert torch.equal(again.reconstruct(x), model.reconstruct(x))
    for module in (again, again.to(torch.float32), again.to(torch.float64).to(torch.float32)):
        units = module.posterior.standardizer
        assert units.is_double
        assert units.loc.dtype == torch.float64
        assert torch.equal(units.loc, model.posterior.standardizer.loc)
    assert next(again.parameters()).dtype == torch.float32


def test_a_run_that_was_stopped_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    data = lb.data.from_arrays(SHIFT + SCALE * near_zero())
    models = [model_of(data, "Normal") for _ in range(3)]
    settings = {"epochs": 4, "batch_size": 32, "progress": False}
    lb.fit(models[0], lb.objectives.ELBO(), data, **settings)
    stops = [lambda record: record["epoch"] == 2]
    run = tmp_path / "run"
    lb.fit(models[1], lb.objectives.ELBO(), data, out=run, callbacks=stops, **settings)
    lb.fit(models[2], lb.objectives.ELBO(), data, out=run, resume=True, **settings)
    whole, resumed = (model.state_dict() for model in (models[0], models[2]))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert resumed["posterior.standardizer.loc"].dtype == torch.float64


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_other_precisions_keep_the_units(precision: str) -> None:
    data = lb.data.from_arrays(SHIFT + SCALE * near_zero())
    model = model_of(data, "Normal")
    lb.fit(model, lb.objectives.ELBO(), data, epochs=3, progress=False, precision=precision)
    x = data.examples("test")
    assert model.posterior.standardizer.loc.dtype == torch.float64
    assert ((model.reconstruct(x) - x) / SCALE).abs().max() < 10


def test_x_in_a_precision_that_changes_it_is_refused() -> None:
    data = lb.data.from_arrays(SHIFT + SCALE * near_zero())
    model = model_of(data, "Normal")
    lb.fit(model, lb.objectives.ELBO(), data, epochs=1, progress=False)
    with pytest.raises(ValueError, match="x is float32, and the model was trained on data"):
        model.encode(data.examples("test").float())
    few = lb.data.from_arrays(np.array([[0.0, 0.0, 0.0], [2.0**31] * 3]), splits="all")
    with pytest.raises(ValueError, match="dtype='float64'"):
        model.check_data(few)
    whole = torch.full((2, 3), 2**30, dtype=torch.int64)  # whole numbers lose nothing
    assert torch.equal(model.encode(whole), model.encode(whole.double()))


@pytest.mark.parametrize("verb", ["encode", "reconstruct", "__call__", "log_joint"])
def test_verbs_refuse_what_is_no_number(verb: str) -> None:
    data = lb.data.from_arrays(near_zero().float())
    model = model_of(data, "Normal")
    x = near_zero(5).float()
    z = (torch.zeros(1, 5, 2),) if verb == "log_joint" else ()
    ask = partial(getattr(model, verb), x.clone(), *([z] if z else []))
    ask()
    for bad in (math.nan, math.inf):
        x_bad = x.clone()
        x_bad[3, 1] = bad
        with pytest.raises(ValueError, match=r"in 1 of 5 examples \(numbers 3\)"):
            getattr(model, verb)(x_bad, *([z] if z else []))
        mask = x_bad.isfinite()  # what the mask leaves out may be anything
        getattr(model, verb)(x_bad, *([z] if z else []), context=Context(mask=mask))
    with pytest.raises(TypeError, match="complex"):
        getattr(model, verb)(torch.complex(x, x), *([z] if z else []))
    with pytest.raises(TypeError, match="x is NoneType"):
        getattr(model, verb)(None, *([z] if z else []))


def test_training_does_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    monkeypatch.setattr("lowerbound.model.check_examples", lambda x: looked.append(len(x)))
    data = lb.data.from_arrays(near_zero())
    model = model_of(data, "Normal")
    before = len(looked)
    lb.fit(
        model, lb.objectives.ELBO(), data, epochs=1, batch_size=50, progress=False,
        callbacks=[lambda record: looked.append(-1)],
    )  # fmt: skip
    # once, on one example, where model and objective meet
    assert looked[before:] == [1, -1]
    model.encode(data.examples("test"))
    assert looked[-1] == len(data["test"])


def test_decimals_are_those_of_the_observed_values() -> None:
    x = np.array([[1.0, 0.25, 1 / 3, 0.1], [20.0, 3.5, 2 / 3, 7.0]])
    mask = np.array([[1, 1, 1, 0], [1, 1, 1, 1]], bool)
    assert decimals_of(Stored(x, mask=mask)) == (0, 2, None, 0)
    assert decimals_of(Stored(x[:, [0, 1, 3]].astype(np.float32))) == (0, 2, 1)
    assert decimals_of(Stored(x.astype(int))) == (0, 0, 0, 0)
    assert decimals_of(Stored(np.zeros((2, 1, 3, 3)))) is None
