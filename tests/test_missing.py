"""Missing entries: nothing depends on what stands there, and what is left is the evidence of what
is observed.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from lowerbound.roles import Context, Posterior
from lowerbound.units import Standardizer, refilled
from tests.cli.conftest import Command, command  # noqa: F401  the fixture
from tests.contracts import within

N, D = 60, 5


def table(garbage: float, binary: bool = False) -> Dataset:
    """Numbers of which a fifth is missing, with the same value at every missing place."""
    rng = np.random.default_rng(0)
    x = (
        (rng.random((N, D)) < 0.4).astype(float)
        if binary
        else 50 + 9 * rng.normal(size=(N, D)) * rng.random(D)
    )
    mask = rng.random((N, D)) < 0.8
    mask[:, 0], mask[:, 1] = True, np.arange(N) % 6 == 0  # one is always there, and one seldom
    return lb.data.from_arrays(np.where(mask, x, garbage), mask=mask, levels="none")


def model_for(
    data: Dataset, likelihood: str, posterior: str = "DiagonalNormal", prior: str = "StandardNormal"
) -> lb.VAE:
    torch.manual_seed(0)
    x_shape = data.event_shape
    p = (
        lb.priors.VampPrior((2,), x_shape, 5)
        if prior == "VampPrior"
        else lb.priors.StandardNormal((2,))
    )
    return lb.VAE(
        p,
        getattr(lb.posteriors, posterior)(x_shape, (2,)),
        getattr(lb.likelihoods, likelihood)((2,), x_shape),
    )


@pytest.mark.parametrize("garbage", [7.0, math.nan, math.inf, -1e30])
@pytest.mark.parametrize(
    ("likelihood", "posterior", "prior"),
    [
        ("Normal", "DiagonalNormal", "VampPrior"),
        ("OptimalNormal", "FullNormal", "StandardNormal"),
        ("Bernoulli", "DiagonalNormal", "StandardNormal"),
        ("NegativeBinomial", "DiagonalNormal", "StandardNormal"),
    ],
)
def test_what_stands_at_a_missing_entry_changes_nothing(
    garbage: float, likelihood: str, posterior: str, prior: str
) -> None:
    """From the card to the evaluation: support, hash, units, statistics, training, evidence and
    codes, bit for bit.
    """
    binary = likelihood in ("Bernoulli", "NegativeBinomial")
    found = []
    for value in (0.0, garbage):
        data = table(value, binary)
        model = model_for(data, likelihood, posterior, prior)
        lb.fit(model, lb.objectives.ELBO(), data, epochs=2, batch_size=16, progress=False)
        result = lb.evaluate(model, data, samples=5)
        found.append((data.sha256, data.support, data.range, model.state_dict(), result))
    one, other = found
    assert one[:3] == other[:3]
    assert all(torch.equal(value, other[3][name]) for name, value in one[3].items())
    assert one[4] == other[4]


@pytest.mark.parametrize("garbage", [7.0, math.nan, math.inf])
def test_a_model_called_on_its_own_sees_no_missing_value(garbage: float) -> None:
    """Whoever calls the model has not asked the card: the loss, every gradient, and each verb."""
    x, mask = torch.rand(6, D) + 3, torch.rand(6, D) < 0.7
    context = Context(mask=mask)
    results = []
    for value in (0.0, garbage):
        model = model_for(table(0.0), "Normal").eval()
        for module in model.modules():
            if isinstance(module, Standardizer):
                module.learn(torch.where(mask, x, value), mask)
        filled = torch.where(mask, x, value)
        torch.manual_seed(1)
        draw = model(filled, context, samples=3)
        (-draw.log_w.mean()).backward()
        gradients = [p.grad for p in model.parameters()]
        z = draw.latents[0].z.detach()
        verbs = [
            model.encode(filled, context),
            model.reconstruct(filled, context),
            model.log_joint(filled, (z,), context),
        ]
        full = lb.evaluation.impute(model, filled, context, samples=20, seed=0)
        results.append([draw.log_w, *gradients, *verbs, full])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    assert torch.equal(results[0][-1][mask], x[mask])


def test_units_are_those_of_the_observed_entries() -> None:
    x = torch.randn(200, 3) * torch.tensor([1.0, 20.0, 5.0]) + 7
    mask = torch.rand(200, 3) < 0.6
    mask[:, 2] = False
    standardizer = Standardizer((3,))
    standardizer.learn(torch.where(mask, x, math.nan), mask)
    for d in range(2):
        assert standardizer.loc[d].item() == pytest.approx(x[mask[:, d], d].mean().item(), rel=1e-5)
        assert standardizer.scale[d].item() == pytest.approx(
            x[mask[:, d], d].std().item(), rel=1e-5
        )
    assert (standardizer.loc[2], standardizer.scale[2]) == (0, 1)
    shown = standardizer.standardize(torch.where(mask, x, math.nan), mask)
    assert bool((shown[~mask] == 0).all())
    assert bool(refilled(x, mask).isfinite().all())
    assert torch.equal(refilled(x, mask)[mask], x[mask])


def test_training_takes_units_and_starting_points_from_what_is_observed() -> None:
    data = table(0.0)
    model = model_for(data, "Normal", prior="VampPrior")
    lb.fit(
        model,
        lb.objectives.ELBO(),
        data,
        epochs=1,
        batch_size=1000,
        learning_rate=1e-9,
        progress=False,
    )
    mask, x = data["train"].mask, data.examples("train")
    for d in (0, 2, 3, 4):
        assert model.posterior.standardizer.loc[d].item() == pytest.approx(
            x[mask[:, d], d].mean().item(), rel=1e-5
        )
    starts = model.prior.pseudo_inputs
    assert bool(
        (starts[:, [0, 2, 3, 4]] > 10).all()
    )  # and not at the zero that is stored for a missing entry
    data = table(0.0, binary=True)
    model = model_for(data, "Bernoulli")
    lb.fit(
        model,
        lb.objectives.ELBO(),
        data,
        epochs=1,
        batch_size=1000,
        learning_rate=1e-9,
        progress=False,
    )
    mask, x = data["train"].mask, data.examples("train")
    for d in (0, 2, 3, 4):
        assert model.likelihood.base[d].sigmoid().item() == pytest.approx(
            x[mask[:, d], d].mean().item(), abs=0.03
        )


class Exact(Posterior):
    """p(z|x_observed) of a linear normal model, for each example by its own mask."""

    def __init__(self, weight: Tensor, bias: Tensor, scale: float) -> None:
        super().__init__((len(bias),), (weight.shape[1],))
        self.weight, self.bias, self.scale = weight, bias, scale

    def forward(self, x: Tensor, context: Context) -> Distribution:
        seen = torch.ones_like(x) if context.mask is None else context.mask.to(x)
        rows = self.weight * seen[..., None]  # (B, D, Z), zero where missing
        precision = torch.eye(self.weight.shape[1]).to(x) + rows.mT @ rows / self.scale**2
        covariance = torch.linalg.inv(precision)
        mean = (covariance @ rows.mT @ ((x - self.bias) * seen)[..., None])[..., 0] / self.scale**2
        return MultivariateNormal(mean, covariance_matrix=covariance)


def linear(scale: float = 0.5) -> tuple[lb.VAE, Tensor, Tensor, Tensor, Tensor]:
    """A linear model with its exact posterior in float64, examples and a mask; the mean and
    covariance of x.
    """
    torch.manual_seed(0)
    likelihood = lb.likelihoods.Normal(
        (2,), (D,), scale=scale, network=lambda a, b: lb.networks.MLP(a, b, hidden=())
    ).double()
    (layer,) = likelihood.net.layers
    weight, bias = layer.weight.detach(), layer.bias.detach()
    prior = lb.priors.StandardNormal((2,)).double()
    model = lb.VAE(prior, Exact(weight, bias, scale), likelihood)
    covariance = weight @ weight.T + scale**2 * torch.eye(D).double()
    x = MultivariateNormal(bias, covariance).sample((12,))
    mask = torch.rand(12, D) < 0.6
    return model, x, mask, bias, covariance


def test_the_evidence_is_that_of_the_observed_entries() -> None:
    """log N(x_o; mu_o, Sigma_oo): with the exact posterior every single draw says so."""
    model, x, mask, centre, covariance = linear()
    missing = torch.where(mask, x, math.nan)
    found = lb.evaluation.log_marginal(model, missing, Context(mask=mask), samples=3, seed=0)
    for b, seen in enumerate(mask):
        inner = covariance[seen][:, seen]
        exact = (
            MultivariateNormal(centre[seen], inner).log_prob(x[b, seen])
            if seen.any()
            else torch.tensor(0.0)
        )
        assert found[b].item() == pytest.approx(exact.item(), abs=1e-8)


@pytest.mark.parametrize("draw", [False, True])
def test_imputations_are_those_of_the_conditional_distribution(draw: bool) -> None:
    """Mean and variance of x_mis | x_obs, in closed form, against imputations under many seeds."""
    model, x, mask, centre, covariance = linear()
    context, missing = Context(mask=mask), torch.where(mask, x, math.nan)
    seeds = range(400 if draw else 40)
    full = torch.stack(
        [
            lb.evaluation.impute(
                model, missing, context, samples=2 if draw else 25, seed=seed, draw=draw
            )
            for seed in seeds
        ]
    )
    for b, seen in enumerate(mask[:6]):
        cross = covariance[~seen][:, seen] @ torch.linalg.inv(covariance[seen][:, seen])
        mean = centre[~seen] + cross @ (x[b, seen] - centre[seen])
        spread = (covariance[~seen][:, ~seen] - cross @ covariance[seen][:, ~seen]).diag()
        for j, d in enumerate((~seen).nonzero().flatten()):
            assert within(full[:, b, d], mean[j], 5)
            if draw:
                assert within((full[:, b, d] - mean[j]) ** 2, spread[j], 5)


def test_classes_get_the_most_probable_one() -> None:
    """A mean of classes is no class; and means of the other columns are not touched by it."""
    torch.manual_seed(0)
    likelihood = lb.likelihoods.Categorical((2,), (2,), levels=3)
    with torch.no_grad():
        likelihood.net.layers[-1].weight.zero_()
        likelihood.net.layers[-1].bias.copy_(
            torch.tensor([[0.5, 0.1], [0.1, 0.2], [0.4, 0.7]]).log().flatten()
        )
    model = lb.VAE(
        lb.priors.StandardNormal((2,)), lb.posteriors.DiagonalNormal((2,), (2,)), likelihood
    )
    x, context = torch.zeros(3, 2), Context(mask=torch.zeros(3, 2))
    full = lb.evaluation.impute(
        model, x, context, samples=2000, seed=0, levels=torch.tensor([3, 0])
    )
    assert torch.equal(full[:, 0], torch.zeros(3))
    assert torch.allclose(full[:, 1], torch.tensor(0.8), atol=1e-4)


def test_bits_are_those_of_the_observed_entries() -> None:
    """Uniform bits cost one bit each, however many are missing."""
    rng = np.random.default_rng(0)
    x, mask = (rng.random((50, D)) < 0.5).astype(float), rng.random((50, D)) < 0.5
    data = lb.data.from_arrays(x, mask=mask)
    model = model_for(data, "Bernoulli")
    for p in model.likelihood.parameters():
        torch.nn.init.zeros_(p)
    result = lb.evaluate(model, data, "train", samples=200)
    assert result.bits_per_dim is not None
    assert result.observed is not None
    assert result.bits_per_dim.value == pytest.approx(1, abs=0.01)
    assert result.observed.value == pytest.approx(data["train"].mask.sum(1).float().mean().item())
    assert "observed entries" in result.estimator
    whole = lb.evaluate(model, lb.data.from_arrays(x), "train", samples=200)
    assert whole.observed is None
    assert "observed" not in whole.estimator


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((N, D - 1)), r"mask of shape \(60, 4\) for values of shape \(60, 5\)"),
        (np.full((N, D), 0.5), r"other values than 0 \(missing\) and 1 \(observed\)"),
        (np.zeros((N, D)), "no value that is observed"),
    ],
)
def test_a_mask_that_is_none_is_refused(mask: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lb.data.from_arrays(np.ones((N, D)), mask=mask)


@pytest.mark.parametrize(
    "mask", [torch.ones(D), torch.ones(6, D - 1), torch.ones(4, D), torch.ones(6, 1, D)]
)
def test_a_model_refuses_a_mask_of_another_shape(mask: Tensor) -> None:
    with pytest.raises(ValueError, match="does not fit examples of shape"):
        model_for(table(0.0), "Normal")(torch.ones(6, D), Context(mask=mask))


def test_pictures_with_missing_pixels_are_binarised_and_not_moved() -> None:
    x, mask = (
        np.random.default_rng(0).random((40, 1, 4, 4)),
        np.random.default_rng(1).random((40, 1, 4, 4)) < 0.7,
    )
    data = lb.data.from_arrays(np.where(mask, x, np.nan), mask=mask, binarize="dynamic")
    lb.fit(model_for(data, "Bernoulli"), lb.objectives.ELBO(), data, epochs=1, progress=False)
    for option in ({"flip": True}, {"shift": 1}):
        with pytest.raises(ValueError, match="leave the mask"):
            lb.data.from_arrays(x, mask=mask, **option)


def test_empty_cells_are_read_where_the_user_says_so(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("a,b,c\n" + "1,,0.5\n?,2,nan\n3,4,1.5\n" * 5)
    with pytest.raises(ValueError, match="row 2, column 'b' is empty; .*missing='marginalise'"):
        lb.data.load(file)
    data = lb.data.load(file, missing="marginalise", splits="all")
    assert data["all"].mask[:3].tolist() == [
        [True, False, True],
        [False, True, False],
        [True, True, True],
    ]
    assert data.examples("all")[:3].tolist() == [[1, 0, 0.5], [0, 2, 0], [3, 4, 1.5]]
    assert data.columns == ("a", "b", "c")
    array = tmp_path / "t.npy"
    np.save(array, np.array([[1, np.nan], [np.nan, 2.5], [0, 0]] * 5))
    with pytest.raises(ValueError, match=r"NaN.*--data.missing marginalise"):
        lb.data.load(array)
    assert lb.data.load(array, missing="marginalise", splits="all")["all"].mask.sum() == 20
    np.save(array, np.array([[1, np.nan], [np.inf, 2.5]] * 5))
    with pytest.raises(ValueError, match="NaN or infinite"):
        lb.data.load(array, missing="marginalise")


def test_a_parquet_table_is_read_like_a_csv(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"a": [1, None, 3] * 5, "b": [0.5, math.nan, None] * 5, "kind": ["x", "y", None] * 5}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    data = lb.data.load(
        tmp_path / "t.parquet", missing="marginalise", categorical=["kind"], splits="all"
    )
    (tmp_path / "t.csv").write_text("a,b,kind\n" + "1,0.5,x\n,,y\n3,,\n" * 5)
    same = lb.data.load(
        tmp_path / "t.csv", missing="marginalise", categorical=["kind"], splits="all"
    )
    assert data.sha256 == same.sha256
    assert data.categories == same.categories == {"kind": ("x", "y")}


def test_a_table_with_holes_is_filled_in_better_than_by_means(
    command: Command,  # noqa: F811  a fixture
    tmp_path: Path,
) -> None:
    """The wine table with a fifth of its cells removed, from the command line: beyond chance better
    than column means.
    """
    wine = load_wine()
    rng = np.random.default_rng(0)
    gone = rng.random(wine.data.shape) < 0.2
    rows = [
        ",".join("" if g else str(v) for v, g in zip(*row, strict=True))
        for row in zip(wine.data, gone, strict=True)
    ]
    (tmp_path / "wine.csv").write_text("\n".join([",".join(wine.feature_names), *rows]))
    small = [
        "--latent",
        3,
        "--epochs",
        40,
        "--batch-size",
        16,
        "--learning-rate",
        0.003,
        "--no-report",
        "--quiet",
    ]
    small += [
        "--posterior.network.hidden",
        "[32]",
        "--likelihood.network.hidden",
        "[32]",
        "--samples",
        10,
    ]
    assert (
        command("train", "wine.csv", "--data.missing", "marginalise", *small, "--out", "run")[0]
        == 0
    )
    assert (
        command(
            "impute", "run", "wine.csv", "--split", "all", "--samples", 200, "--out", "full.csv"
        )[0]
        == 0
    )
    header, *lines = (tmp_path / "full.csv").read_text().splitlines()
    assert header == ",".join(wine.feature_names)
    full = np.array([[float(cell) for cell in line.split(",")] for line in lines])
    assert np.allclose(full[~gone], wine.data[~gone], rtol=1e-6)
    seen = np.where(gone, np.nan, wine.data)
    centre, scale = np.nanmean(seen, 0), np.nanstd(seen, 0)
    errors = [
        np.where(gone, ((guess - wine.data) / scale) ** 2, 0).sum(1)
        for guess in (np.tile(centre, (178, 1)), full)
    ]
    better = errors[0] - errors[1]
    assert better.mean() > 4 * better.std() / math.sqrt(len(better))
    again = command("impute", "run", "wine.csv", "--split", "all", "--out", "draw.csv", "--draw")
    assert again[0] == 0
    for verb in (["encode"], ["score", "--samples", 10], ["reconstruct"]):
        assert command(verb[0], "run", "wine.csv", *verb[1:], "--out", "o.npy")[0] == 0
        assert np.isfinite(np.load(tmp_path / "o.npy")).all()
    assert command("sample", "run", "-n", 3, "--out", "s.csv")[0] == 0
    assert (tmp_path / "s.csv").read_text().splitlines()[0] == header
