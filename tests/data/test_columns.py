"""Columns of which nothing can be learnt, and columns of classes under a likelihood that is of
something else: refused by name, before any work.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from lowerbound.roles import Group, Likelihood
from tests.cli.conftest import Command, command  # noqa: F401  the fixture

RNG = np.random.default_rng(0)
N = 200


def fitted(data: Dataset, likelihood: Likelihood) -> lb.VAE:
    torch.manual_seed(0)
    posterior = lb.posteriors.DiagonalNormal(data.event_shape, (1,))
    model = lb.VAE(lb.priors.StandardNormal((1,)), posterior, likelihood)
    lb.fit(model, lb.objectives.ELBO(), data, epochs=1, progress=False)
    return model


def normal(d: int, scale: float | str = "per_dimension") -> Likelihood:
    return lb.likelihoods.Normal((1,), (d,), scale=scale)


def table(folder: Path, **columns: object) -> Path:
    rows = zip(*columns.values(), strict=True)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
    (folder / "t.csv").write_text("\n".join([*lines, ""]))
    return folder / "t.csv"


class TestNothingToLearn:
    def test_a_column_without_a_value_is_refused_by_name(self, tmp_path: Path) -> None:
        path = table(tmp_path, a=RNG.normal(size=N), gone=[""] * N, b=RNG.normal(size=N))
        data = lb.data.load(path, missing="marginalise")
        with pytest.raises(
            ValueError,
            match=r"the column 'gone' holds no value in training.*--data.ignore \"\[gone",
        ):
            fitted(data, normal(3))
        rest = lb.data.load(path, missing="marginalise", ignore=["gone"])
        assert rest.columns == ("a", "b")
        # to be filled in, a column may be empty: the model knows it
        trained = fitted(rest, normal(2))
        path = table(tmp_path, a=[1.0, 2.0], b=["", ""])
        new = lb.data.load(path, missing="marginalise", splits="all")
        assert trained.matched(new) is new

    def test_of_an_array_it_is_named_by_its_number(self) -> None:
        x = RNG.normal(size=(N, 3))
        x[:, 1] = np.nan
        with pytest.raises(ValueError, match=r"column 1 holds no value.*np.delete\(x, \[1\], 1\)"):
            fitted(lb.data.from_arrays(x, missing="marginalise"), normal(3))

    @pytest.mark.parametrize("scale", ["per_dimension", "network"])
    def test_a_constant_column_is_refused_where_its_density_has_no_end(
        self, tmp_path: Path, scale: str
    ) -> None:
        path = table(tmp_path, a=RNG.normal(size=N), k=[7.5] * N)
        with pytest.raises(
            ValueError, match=r"the column 'k' holds one value alone.*ignore=\['k'\] \(--data"
        ):
            fitted(lb.data.load(path), normal(2, scale))

    def test_without_it_nll_stays_above_the_entropy_of_the_rest(self, tmp_path: Path) -> None:
        path = table(tmp_path, a=RNG.normal(size=N), k=[7.5] * N)
        data = lb.data.load(path, ignore=["k"], splits="train_test")
        evaluation = lb.evaluate(fitted(data, normal(1)), data, samples=50)
        entropy = 0.5 * math.log(2 * math.pi * math.e)
        assert evaluation.nll.value > entropy - 4 * evaluation.nll.stderr

    def test_where_the_scale_is_shared_or_there_is_none_it_stays(self) -> None:
        x = np.stack([RNG.normal(size=N), np.full(N, 7.5)], 1)
        fitted(lb.data.from_arrays(x), normal(2, "shared"))
        bits = np.stack([RNG.integers(0, 2, N), np.ones(N, int)], 1)
        fitted(lb.data.from_arrays(bits), lb.likelihoods.Bernoulli((1,), (2,)))

    def test_in_a_product_it_is_that_of_the_group_that_learns_its_scale(self) -> None:
        x = np.stack([RNG.integers(0, 2, N), np.full(N, 7.5), RNG.normal(size=N)], 1)
        data = lb.data.from_arrays(x, columns=["bit", "k", "v"])
        groups = {
            "bits": Group([0], lb.likelihoods.Bernoulli),
            "real": Group([2, 1], lambda z, x: lb.likelihoods.Normal(z, x, scale="per_dimension")),
        }
        with pytest.raises(ValueError, match="the column 'k' holds one value alone"):
            fitted(data, lb.likelihoods.Product((1,), (3,), groups))


class TestClasses:
    @pytest.fixture
    def data(self, tmp_path: Path) -> Dataset:
        path = table(
            tmp_path,
            v=RNG.normal(size=N),
            kind=np.array(["a", "b", "c"])[RNG.integers(0, 3, N)],
            sex=np.array(["f", "m"])[RNG.integers(0, 2, N)],
        )
        return lb.data.load(path, categorical=["kind", "sex"])

    def test_a_density_is_no_likelihood_of_them(self, data: Dataset) -> None:
        with pytest.raises(
            ValueError,
            match=r"Normal is no likelihood of classes, which the columns 'kind' \(a, b, c\), "
            r"'sex' \(f, m\) .* take --likelihood Product",
        ):
            fitted(data, normal(3))

    def test_nor_is_a_group_that_has_more_levels_or_counts(self, data: Dataset) -> None:
        def product(kind: int, sex: type[Likelihood]) -> Likelihood:
            groups = {
                "v": Group([0], lb.likelihoods.Normal),
                "kind": Group([1], lambda z, x: lb.likelihoods.Categorical(z, x, kind)),
                "sex": Group([2], sex),
            }
            return lb.likelihoods.Product((1,), (3,), groups)

        fitted(data, product(3, lb.likelihoods.Bernoulli))
        # draws of five levels, and of counts, would have no label
        with pytest.raises(ValueError, match=r"Product is no .* column 'kind'.*Categorical with"):
            fitted(data, product(5, lb.likelihoods.Bernoulli))
        with pytest.raises(ValueError, match=r"Product is no .* column 'sex'.*\(Bernoulli for"):
            fitted(data, product(3, lb.likelihoods.NegativeBinomial))

    def test_no_label_is_written_for_what_is_none(self) -> None:
        from lowerbound.data.tables import text

        labels = {"kind": ("a", "b", "c")}
        assert text(np.array([[0.0], [0.5], [1.0]]), ["kind"], labels) == "kind\na\nb\nc\n"
        for value in (-0.5, 1.5, 0.4):  # -0.5 was the last label, and 1.5 an IndexError
            with pytest.raises(ValueError, match=r"'kind' holds classes \(a, b, c\), and .* none"):
                text(np.array([[value]]), ["kind"], labels)
