"""Examples far from all training data: log p(x) is that of a grid over z, and the others are what
they are without them.
"""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from lowerbound.evaluation.far import is_far
from lowerbound.roles import Context
from lowerbound.shapes import Shape

AT = (12.0, 100.0, 1e3, 1e4, 1e6)  # standard deviations from the mean
COLUMNS = 4


def linear(in_shape: Shape, out_shape: Shape) -> nn.Module:
    return lb.networks.MLP(in_shape, out_shape, hidden=())


def small(in_shape: Shape, out_shape: Shape) -> nn.Module:
    return lb.networks.MLP(in_shape, out_shape, hidden=(16,))


def table(rows: int = 300) -> Dataset:
    """Columns that two hidden causes correlate."""
    causes = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(rows, COLUMNS, generator=torch.Generator().manual_seed(1))
    mixing = torch.tensor([[1.0, 0.5, 0.0, -1.0], [0.0, 1.0, 1.0, 0.5]])
    return lb.data.from_arrays((causes @ mixing + 0.5 * noise).numpy())


def trained(latent: int, decoder: str, posterior: str = "DiagonalNormal") -> lb.VAE:
    torch.manual_seed(latent)
    model = lb.VAE(
        lb.priors.StandardNormal((latent,)),
        getattr(lb.posteriors, posterior)((COLUMNS,), (latent,), network=small),
        lb.likelihoods.Normal(
            (latent,),
            (COLUMNS,),
            scale="per_dimension",
            network=linear if decoder == "linear" else small,
        ),
    )
    lb.fit(model, lb.objectives.ELBO(), table(), epochs=20, progress=False)
    return model


def by_grid(model: lb.VAE, x: Tensor) -> float:
    """Log p(x) by a grid over z in float64 that is wide enough to hold the mode: on a line, or in
    polar coordinates, first over all magnitudes and then, more finely, around the best point.
    """
    exact = copy.deepcopy(model).double().eval()
    latent = exact.z_shape[0]

    @torch.no_grad()
    def log_joint(z: Tensor) -> Tensor:
        pieces = z.reshape(-1, 1, latent).split(100_000)
        return torch.cat([exact.log_joint(x[None].double(), (piece,))[:, 0] for piece in pieces])

    radius = torch.cat([torch.zeros(1), torch.logspace(-2, 9, 1501)]).double()
    if latent == 1:
        z = torch.cat([radius, -radius])[:, None]
    else:
        angle = torch.linspace(0, 2 * math.pi, 361).double()[:-1, None]
        z = torch.stack([radius * angle.cos(), radius * angle.sin()], -1).reshape(-1, 2)
    centre = z[log_joint(z).argmax()]
    width = max(1.0, float(centre.norm()) * 0.05)
    n = 4001 if latent == 1 else 161
    while (
        True
    ):  # a finer grid around the best point, until a step is a part of the posterior's width
        line = torch.linspace(-1, 1, n).double()
        steps = line[:, None] if latent == 1 else torch.cartesian_prod(line, line)
        heights = log_joint(centre + width * steps)
        mass = (torch.logsumexp(heights, 0) - heights.max()).exp()
        if mass > 20**latent / 4 or width < 1e-9:
            cell = latent * math.log(2 * width / (n - 1))
            return float(torch.logsumexp(heights, 0)) + cell
        centre, width = centre + width * steps[heights.argmax()], width / 2


@pytest.fixture(scope="module", params=[(1, "linear"), (1, "MLP"), (2, "linear"), (2, "MLP")])
def model(request: pytest.FixtureRequest) -> lb.VAE:
    return trained(*request.param)


def test_an_example_that_is_far_has_the_log_marginal_of_a_grid(model: lb.VAE) -> None:
    x = torch.zeros(len(AT), COLUMNS)
    x[:, 0] = torch.tensor(AT)
    standardizer = model.posterior.standardizer
    x = standardizer.unstandardize(x)
    with pytest.warns(UserWarning, match=r"of 5 examples .*far from all training data"):
        found = lb.evaluation.log_marginal(model, x, samples=200, seed=0)
    assert found.dtype == torch.float64
    for estimate, example in zip(found.tolist(), x, strict=True):
        truth = by_grid(model, example)
        assert abs(estimate - truth) < 0.01 * abs(truth) + 0.5


def test_the_others_are_what_they_are_without_it_to_the_last_bit(model: lb.VAE) -> None:
    x = table().examples("test")
    spoilt = x.clone()
    spoilt[7, 1] = 1e4
    alone = lb.evaluation.log_marginal(model, x, samples=50, seed=3)
    with pytest.warns(UserWarning, match=r"1 of 30 examples \(numbers 7\)"):
        beside = lb.evaluation.log_marginal(model, spoilt, samples=50, seed=3)
    others = torch.arange(len(x)) != 7
    assert torch.equal(alone[others].double(), beside[others])
    assert beside[7] < -1e4


def test_an_evaluation_says_which_examples_are_far_and_what_the_others_give(
    model: lb.VAE,
) -> None:
    data = table()
    values = data.examples("test").numpy().copy()
    clean = lb.data.from_arrays(values, splits="all")
    values[7, 1] = 1e4
    spoilt = lb.data.from_arrays(values, splits="all")
    for how in ({"estimator": "importance"}, {"estimator": "ais", "chains": 4, "temperatures": 5}):
        alone = lb.evaluate(model, clean, split="all", samples=20, **how)
        beside = lb.evaluate(model, spoilt, split="all", samples=20, **how)
        others = torch.arange(len(values)) != 7
        for name in ("nll", "elbo", "rate", "distortion"):
            assert torch.equal(
                alone.values[name][others].double(), beside.values[name][others].double()
            )
        assert (alone.far, beside.far) == ((), (7,))
        truth = by_grid(model, torch.from_numpy(values[7]))
        assert abs(-beside.values["nll"][7] - truth) < 0.01 * abs(truth) + 0.5
        # that of the refined q: its distortion is a mean over draws along a steep slope
        assert abs(beside.values["elbo"][7] - truth) < 1e-3 * abs(truth)
        (remark,) = [words for words in beside.warnings if "far from all training data" in words]
        assert "1 of 30 examples (numbers 7)" in remark
        assert any("nll of the other 29 examples" in words for words in beside.warnings)
        assert beside.mutual_information.n == 29
        assert beside.active_units == alone.active_units
        assert beside.as_json()["far"] == [7]


def test_an_evaluation_never_fails_for_one_row() -> None:
    values = np.concatenate([table().examples(split).numpy() for split in ("train", "test")])
    model = trained(2, "MLP")
    for size in (1e5, 1e12):
        values[3, 0] = size
        data = lb.data.from_arrays(values, splits="all")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = lb.evaluate(model, data, split="all", samples=5)
        assert result.far == (3,)
        assert math.isfinite(result.nll.value)


def test_inside_the_training_data_nothing_is_far_and_nothing_changes(model: lb.VAE) -> None:
    for split in ("train", "test"):
        x = table().examples(split)
        assert not is_far(model, x).any()
        found = lb.evaluation.log_marginal(model, x[:100], samples=20, seed=0)
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            plain = lb.evaluation.evidence(model.eval(), x[:100], samples=20)
        assert torch.equal(found, plain.log_marginal)
        assert found.dtype == torch.float32


def test_a_rare_count_a_class_and_what_is_missing_are_not_far() -> None:
    rare = np.zeros((2000, 3), dtype=np.int64)
    rare[:, 1] = np.arange(2000) % 5
    rare[0] = [1, 0, 1]
    counts = lb.data.from_arrays(rare, levels="none")
    likelihood = lb.likelihoods.NegativeBinomial((1,), (3,))
    model = lb.VAE(
        lb.priors.StandardNormal((1,)), lb.posteriors.DiagonalNormal((3,), (1,)), likelihood
    )
    x = counts.examples("train")
    model.learn_units(torch.from_numpy(rare).float())
    assert not is_far(model, torch.from_numpy(rare).float()).any()
    assert is_far(model, torch.tensor([[0.0, 1e4, 0.0]])).all()
    mask = torch.tensor([[1, 0, 1]])
    assert not is_far(model, torch.tensor([[0.0, 1e4, 0.0]]), Context(mask=mask)).any()
    assert x.ndim == 2


@pytest.mark.parametrize("posterior", lb.posteriors.__all__)
def test_every_posterior_scores_what_is_far(posterior: str) -> None:
    """Real codes have q refined; of enumerated ones the sum over all z does not depend on q."""
    if posterior in ("Bernoulli", "Categorical", "VectorQuantised"):
        pytest.skip("codes")
    model = trained(2, "linear", posterior)
    x = torch.tensor([[1e4, 0.0, 0.0, 0.0]])
    with pytest.warns(UserWarning, match="far"):
        found = float(lb.evaluation.log_marginal(model, x, samples=100, seed=0))
    truth = by_grid(model, x[0])
    assert abs(found - truth) < 0.01 * abs(truth) + 0.5


def test_a_hierarchy_bounds_what_is_far_by_what_it_has() -> None:
    """q of several parts is not refined: the example has a bound, -inf if no other, and the others
    their numbers.
    """

    def conditional(in_shape: Shape, out_shape: Shape) -> lb.posteriors.DiagonalNormal:
        return lb.posteriors.DiagonalNormal(in_shape, out_shape, network=small)

    torch.manual_seed(0)
    model = lb.models.Hierarchical(
        prior=lb.priors.StandardNormal((1,)),
        posteriors=[conditional((COLUMNS,), (2,)), conditional((2,), (1,))],
        conditionals=[conditional((1,), (2,))],
        likelihood=lb.likelihoods.Normal((2,), (COLUMNS,), network=small),
    )
    lb.fit(model, lb.objectives.ELBO(), table(), epochs=2, progress=False)
    x = table().examples("test").clone()
    alone = lb.evaluation.log_marginal(model, x, samples=10, seed=0)
    x[7, 1] = 1e30
    with pytest.warns(UserWarning, match=r"1 of 30 examples \(numbers 7\).*cannot be refined"):
        beside = lb.evaluation.log_marginal(model, x, samples=10, seed=0)
    others = torch.arange(len(x)) != 7
    assert torch.equal(alone[others], beside[others])
    assert beside[7] == -math.inf
    result = lb.evaluate(model, lb.data.from_arrays(x.numpy(), splits="all"), "all", samples=10)
    assert result.far == (7,)
    assert result.nll.value == math.inf
    assert result.as_json()["nll"]["value"] is None
    assert "nll of the other 29 examples" in str(result)


def test_a_square_beyond_float64_is_refused_by_its_row(model: lb.VAE) -> None:
    x = torch.zeros(250, COLUMNS, dtype=torch.float64)
    x[213, 2] = 1e200
    with pytest.raises(ValueError, match=r"example 213 holds 1e\+200, whose square"):
        lb.evaluation.log_marginal(model, x, samples=2)
    x[213, 2] = 1e150
    with pytest.warns(UserWarning, match=r"1 of 250 examples \(numbers 213\)"):
        assert lb.evaluation.log_marginal(model, x, samples=2).isfinite().all()


def test_weights_that_are_not_finite_near_the_training_data_are_still_refused(
    model: lb.VAE,
) -> None:
    broken = copy.deepcopy(model)
    nn.init.constant_(broken.likelihood.net.layers[0].weight, math.nan)
    with pytest.raises(ValueError, match="not finite"):
        lb.evaluation.log_marginal(broken, torch.zeros(3, COLUMNS), samples=2)
