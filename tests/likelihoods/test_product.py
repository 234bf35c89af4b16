"""A product of likelihoods over groups of columns: what it is made of, and how groups are named,
found and refused.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound import distributions
from lowerbound.compatibility import conflict
from lowerbound.config.build import build_model, complete
from lowerbound.config.from_data import with_groups
from lowerbound.config.parts import describe
from lowerbound.data.dataset import Dataset
from lowerbound.distributions import NegativeBinomial
from lowerbound.likelihoods import Bernoulli, Categorical, Normal, OptimalNormal, Product
from lowerbound.roles import Context, Group, Likelihood
from lowerbound.shapes import Shape, numel
from lowerbound.supports import BINARY, COUNTS, REAL, Columns, Levels, contains
from lowerbound.units import Standardizer, learn_units
from tests.cli.conftest import Command, command  # noqa: F401  the fixture
from tests.contracts import LikelihoodContract
from tests.quadrature import everywhere, real_line

NO_CONTEXT = Context()


class TestTwoGroups(LikelihoodContract):
    """Every other entry normal, the others of three levels."""

    def make(self, z_shape: Shape, x_shape: Shape) -> Likelihood:
        n = numel(x_shape)
        groups = {"even": Group(range(0, n, 2), partial(Normal, scale="per_dimension"))}
        if n > 1:
            groups["odd"] = Group(range(1, n, 2), partial(Categorical, levels=3))
        return Product(z_shape, x_shape, groups)

    def quadrature(self, px: Distribution) -> tuple[Tensor, Tensor]:
        assert isinstance(px, distributions.Product)
        if len(px.groups) == 1:
            return real_line(px)
        x, weights = (v.clone() for v in real_line(px, 161))
        levels, ones = everywhere(px, torch.linspace(0, 1, 3), torch.ones(3))
        x[..., 1], weights[..., 1] = (
            0.0,
            0.0,
        )  # as many points as the other entry has, and no weight but on the levels
        x[:3, ..., 1], weights[:3, ..., 1] = levels[..., 1], ones[..., 1]
        return x, weights


def mixed() -> Product:
    groups = {
        "yes": Group([1], Bernoulli),
        "amount": Group([0, 3], partial(Normal, scale="per_dimension")),
        "kind": Group([2], partial(Categorical, levels=4)),
        "visits": Group([4], lb.likelihoods.NegativeBinomial),
    }
    return Product((2,), (5,), groups)


def test_the_product_is_the_sum_of_its_groups_in_whatever_order() -> None:
    part, z = mixed(), torch.randn(7, 6, 2)
    px = part(z, NO_CONTEXT)
    x = px.sample()[0]
    alone = [group(z, NO_CONTEXT) for group in part.parts.values()]
    columns = [[1], [0, 3], [2], [4]]
    by_hand = sum(group.log_prob(x[:, c]) for group, c in zip(alone, columns, strict=True))
    assert torch.allclose(part.log_prob(px, x, None), by_hand, rtol=1e-6)
    for group, c in zip(alone, columns, strict=True):
        assert torch.equal(px.mean[..., c], group.mean)
        assert torch.equal(px.variance[..., c], group.variance)
    assert isinstance(alone[3].base_dist, NegativeBinomial)


def test_a_mask_is_that_of_each_group() -> None:
    part, z = mixed().eval(), torch.randn(7, 6, 2)
    px = part(z, NO_CONTEXT)
    x, mask = px.sample()[0], torch.rand(6, 5) < 0.5
    shown = torch.where(mask, x, torch.nan)
    single = [part.log_prob(px, shown, mask & (torch.arange(5) == d)) for d in range(5)]
    assert torch.allclose(part.log_prob(px, shown, mask), sum(single), rtol=1e-5, atol=1e-5)


def test_its_support_is_that_of_each_column() -> None:
    support = mixed().support
    assert support == Columns([REAL, BINARY, Levels(4), REAL, COUNTS])
    assert not support.is_discrete
    assert contains(support, Columns([COUNTS, BINARY, BINARY, REAL, BINARY])) is True
    assert contains(support, Columns([REAL, COUNTS, Levels(4), REAL, COUNTS])) is False
    assert Product((2,), (2,), {"all": Group([0, 1], Bernoulli)}).support == BINARY
    assert Product((2,), (2,), {"all": Group([0, 1], Bernoulli)}).is_density
    with_score = {"a": Group([0], lb.likelihoods.BinaryCrossEntropy), "b": Group([1], Normal)}
    scored = Product((2,), (2,), with_score)
    assert not scored.is_density
    assert conflict(scored, lb.objectives.IWAE()) is not None
    assert conflict(mixed(), lb.objectives.IWAE()) is None


def rows(n: int = 120) -> np.ndarray:
    rng = np.random.default_rng(0)
    amount, yes = 300 + 50 * rng.normal(size=(n, 2)), rng.random((n, 1)) < 0.3
    return np.hstack([amount[:, :1], yes, rng.poisson(4, (n, 1)), amount[:, 1:]])


def card() -> Dataset:
    return lb.data.from_arrays(rows(), columns=["income", "member", "visits", "rent"])


def test_each_group_learns_in_units_and_from_the_examples_of_its_own_columns() -> None:
    data = card()
    config = {
        "latent": 2,
        **{
            role: {"part": name}
            for role, name in (("prior", "StandardNormal"), ("posterior", "DiagonalNormal"))
        },
    }
    config["likelihood"] = with_groups({"part": "Product"}, data)
    names = {
        name: (group["part"], group["columns"])
        for name, group in config["likelihood"]["groups"].items()
    }
    assert names == {
        "real": ("Normal", [0, 3]),
        "binary": ("Bernoulli", [1]),
        "counts": ("NegativeBinomial", [2]),
    }
    model = build_model(complete(config), data.event_shape)
    history = lb.fit(model, lb.objectives.ELBO(), data, epochs=3, progress=False)
    x = data.examples("train")
    real, binary, counts = model.likelihood.parts.values()
    assert torch.allclose(real.standardizer.loc, x[:, [0, 3]].mean(0))
    assert torch.allclose(binary.base.sigmoid(), x[:, 1].mean(), atol=1e-4)
    assert torch.allclose(counts.base.exp(), x[:, 2].mean(), rtol=1e-4)
    assert history.series("loss")[-1] < history.series("loss")[0]
    result = lb.evaluate(model, data, samples=5)
    assert (result.kind, result.bits_per_dim) == ("density", None)
    assert bool(model.likelihood.support.check(model.sample(50, seed=0)).all())


def test_a_product_of_the_units_of_a_product() -> None:
    inner = partial(
        Product, groups={"a": Group([1], OptimalNormal), "b": Group([0], OptimalNormal)}
    )
    part = Product((2,), (3,), {"one": Group([2, 0], inner), "two": Group([1], Normal)})
    learn_units(part, torch.tensor([[1.0, 10.0, 100.0], [3.0, 30.0, 300.0]]))
    locations = [m.loc.item() for m in part.modules() if isinstance(m, Standardizer)]
    assert locations == [2.0, 200.0, 20.0]
    part.prepare(torch.rand(4, 3))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({}, "at least one group"),
        ({"a": Group([0, 1], Normal)}, r"1 of the 3 columns are in no group \(2\)"),
        (
            {"a": Group([0, 1], Normal), "b": Group([1, 2], Normal)},
            "the column 1 is in the group a and in b",
        ),
        ({"a": Group([0, 1, 3], Normal)}, "names the column 3; there are the columns 0 to 2"),
        ({"a b": Group([0, 1, 2], Normal)}, "of letters, digits and underscores"),
        ({"a": Group([], Normal)}, "the group a has no columns"),
    ],
)
def test_groups_that_do_not_share_out_the_columns_are_refused(
    groups: dict[str, Group], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Product((2,), (3,), groups)


def test_data_are_refused_by_the_columns_that_do_not_fit() -> None:
    data = card()
    likelihood = Product((2,), (4,), {"a": Group([0, 1, 2], Normal), "b": Group([3], Bernoulli)})
    model = lb.VAE(
        lb.priors.StandardNormal((2,)), lb.posteriors.DiagonalNormal((4,), (2,)), likelihood
    )
    with pytest.raises(
        ValueError, match=r"1 of the 4 columns.*column 3 on the real line, and not on \{0, 1\}"
    ):
        lb.fit(model, lb.objectives.ELBO(), data, epochs=1, progress=False)


def test_it_says_how_it_was_made_at_any_depth() -> None:
    part = Product(
        (2,),
        (2,),
        {
            "a": Group([1], partial(Normal, network=partial(lb.networks.MLP, hidden=(8,)))),
            "b": Group([0], Bernoulli),
        },
    )
    config = describe(part, "likelihood")
    assert config["groups"]["a"]["columns"] == [1]
    assert config["groups"]["a"]["network"] == {
        "part": "MLP",
        "hidden": [8],
        "activation": "ReLU",
        "batch_norm": False,
    }
    again = build_model(complete({"latent": 2, "likelihood": config}), (2,)).likelihood
    assert describe(again, "likelihood") == config
    again.load_state_dict(part.state_dict())


# a fixture
def test_a_table_of_every_kind_from_the_command_line(command: Command, tmp_path: Path) -> None:  # noqa: F811
    rng = np.random.default_rng(1)
    lines = ["income,member,visits,rent,kind"]
    for row in rows(200):
        cells = [
            f"{row[0]:.2f}",
            f"{row[1]:.0f}",
            f"{row[2]:.0f}",
            f"{row[3]:.2f}",
            "red" if row[2] > 4 else "blue" if row[1] else "green",
        ]
        lines.append(",".join("" if rng.random() < 0.1 else cell for cell in cells))
    (tmp_path / "t.csv").write_text("\n".join(lines))
    how = [
        "--data.missing",
        "marginalise",
        "--data.categorical",
        "[kind]",
        "--epochs",
        2,
        "--quiet",
        "--samples",
        5,
        "--no-report",
    ]
    code, _, err = command("train", "t.csv", *how, "--likelihood", "Product", "--out", "run")
    assert code == 0, err
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    groups = {
        name: (group["part"], group["columns"])
        for name, group in config["likelihood"]["groups"].items()
    }
    assert groups == {
        "real": ("Normal", [0, 3]),
        "binary": ("Bernoulli", [1]),
        "counts": ("NegativeBinomial", [2]),
        "levels_3": ("Categorical", [4]),
    }
    assert config["likelihood"]["groups"]["levels_3"]["levels"] == 3
    assert config["data"]["categorical"] == ["kind=blue|green|red"]
    assert command("sample", "run", "-n", 20, "--out", "s.csv")[0] == 0
    header, *drawn = (line.split(",") for line in (tmp_path / "s.csv").read_text().splitlines())
    assert header == lines[0].split(",")
    assert {row[1] for row in drawn} <= {"0", "1"}
    assert all(row[2].isdigit() and row[4] in ("red", "green", "blue") for row in drawn)
    code, _, err = command("impute", "run", "t.csv", "--samples", 20, "--out", "full.csv")
    assert code == 0, err
    full = [line.split(",") for line in (tmp_path / "full.csv").read_text().splitlines()[1:]]
    assert all(cell for row in full for cell in row)
    assert all(row[4] in ("red", "green", "blue") for row in full)
    # in a file, columns by their names, a group that is named like its column, and a setting of one
    # group changed by option
    (tmp_path / "own.yaml").write_text(
        "likelihood:\n  part: Product\n  groups:\n"
        "    money: {part: Normal, columns: [rent, income]}\n    member: "
        "Bernoulli\n    visits: {part: NegativeBinomial, dispersion: 0}\n    kind: Categorical\n"
    )
    options = ["--config", "own.yaml", "--likelihood.groups.money.scale", "network", "--out", "own"]
    code, _, err = command("train", "t.csv", *how, *options)
    assert code == 0, err
    config = yaml.safe_load((tmp_path / "own" / "config.yaml").read_text())
    assert config["likelihood"]["groups"]["money"]["columns"] == [3, 0]
    assert config["likelihood"]["groups"]["money"]["scale"] == "network"
    code, _, err = command(
        "train", "--config", "own/config.yaml", "--out", "again", "--quiet", "--no-report"
    )
    assert code == 0, err
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("own", "again")]
    assert weights[0] == weights[1]
    for text, message in (
        ("    a: {part: os.system, columns: [0]}", "from the package 'os', which is not trusted"),
        ("    a: {part: Normal, columns: [nobody]}", "unknown column 'nobody'"),
        ("    a: {columns: [rent]}", "has no likelihood: give its part"),
        ("    a: {part: StandardNormal, columns: [0]}", "unknown likelihood 'StandardNormal'"),
    ):
        (tmp_path / "bad.yaml").write_text(f"likelihood:\n  part: Product\n  groups:\n{text}\n")
        code, _, err = command("train", "t.csv", *how, "--config", "bad.yaml", "--out", "bad")
        assert code == 2
        assert message in err
        assert err.count("\n") == 1
