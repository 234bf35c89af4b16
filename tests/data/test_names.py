"""Names on both sides are matched by name: a model finds its columns and classes wherever they
stand, says what it ignores, and refuses what it does not find.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from lowerbound.data.names import Names

RNG = np.random.default_rng(0)
# on scales so far apart that one column in the place of the other has no density to speak of
X = np.stack([170 + 8 * RNG.normal(size=300), 0.7 + 0.1 * RNG.normal(size=300)], 1)
NAMES = ["height", "share"]


def card(columns: list[str], x: np.ndarray = X, **options: object) -> Dataset:
    return lb.data.from_arrays(x, columns=columns, **options)


@pytest.fixture(scope="module")
def model() -> lb.VAE:
    data = card(NAMES)
    torch.manual_seed(0)
    model = lb.VAE(
        lb.priors.StandardNormal((1,)),
        lb.posteriors.DiagonalNormal((2,), (1,)),
        lb.likelihoods.Normal((1,), (2,), scale="per_dimension"),
    )
    lb.fit(model, lb.objectives.ELBO(), data, epochs=3, progress=False)
    return model


def nll(model: lb.VAE, data: Dataset) -> float:
    return lb.evaluate(model, data, samples=10).nll.value


def test_columns_in_another_order_give_the_same_number(
    model: lb.VAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = card(NAMES[::-1], X[:, ::-1])
    assert nll(model, other) == nll(model, card(NAMES))
    # taken by position they would be some thousand nats worse
    by_name = nll(model, other)
    monkeypatch.setattr(model, "names", None)
    assert nll(model, other) > by_name + 100


def test_other_columns_are_ignored_with_a_word_that_names_them(model: lb.VAE) -> None:
    wide = np.stack([np.arange(300), X[:, 1], RNG.normal(size=300), X[:, 0]], 1)
    with pytest.warns(UserWarning, match=r"ignored the columns id, noise, which the model was not"):
        assert nll(model, card(["id", "share", "noise", "height"], wide)) == nll(model, card(NAMES))


def test_a_column_that_is_not_there_is_refused_with_the_nearest(model: lb.VAE) -> None:
    with pytest.raises(
        ValueError, match=r"lacks the columns 'height' \(did you mean 'HEIGHT'\?\), 'share'; its"
    ):
        nll(model, card(["HEIGHT", "kilos"]))
    with pytest.raises(ValueError, match="lacks the column 'share'; its columns: height"):
        nll(model, card(["height"], X[:, :1]))


def test_without_names_columns_are_taken_by_position_and_that_is_said(
    model: lb.VAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.warns(UserWarning, match=r"no names of columns.*by position: height, share"):
        assert nll(model, lb.data.from_arrays(X)) == nll(model, card(NAMES))
    with pytest.raises(ValueError, match=r"examples of shape \(3,\)"):
        nll(model, lb.data.from_arrays(np.column_stack([X, X[:, 0]])))
    monkeypatch.setattr(model, "names", Names())
    with pytest.warns(UserWarning, match="trained on columns without names.*: height, share"):
        nll(model, card(NAMES))


def test_training_goes_on_in_the_order_in_which_it_began(model: lb.VAE) -> None:
    with pytest.raises(
        ValueError, match=r"columns share, height.*on height, share.*columns=\[height,share\]"
    ):
        lb.fit(model, lb.objectives.ELBO(), card(NAMES[::-1], X[:, ::-1]), progress=False)


def test_a_run_keeps_the_names(tmp_path: Path) -> None:
    data = card(NAMES)
    model = lb.VAE(
        lb.priors.StandardNormal((1,)),
        lb.posteriors.DiagonalNormal((2,), (1,)),
        lb.likelihoods.Normal((1,), (2,), scale="per_dimension"),
    )
    lb.fit(model, lb.objectives.ELBO(), data, epochs=1, progress=False, out=tmp_path / "run")
    again = lb.load(tmp_path / "run")
    assert again.names == model.names == Names(columns=("height", "share"))
    assert nll(again, card(NAMES[::-1], X[:, ::-1])) == nll(model, data)


def written(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows, ""]))
    return path


def test_what_is_missing_moves_with_its_column(tmp_path: Path) -> None:
    trained = Names(columns=("a", "b"))
    path = written(tmp_path / "t.csv", "b,c,a", ["1,x,2.5", ",y,3.5", "5,z,"])
    data = lb.data.load(path, splits="all", missing="marginalise", ignore=["c"])
    matched = trained.matched(data)
    assert matched["all"].values.tolist() == [[2.5, 1], [3.5, 0], [0, 5]]
    assert matched["all"].mask.tolist() == [[True, True], [True, False], [False, True]]
    assert matched.columns == ("a", "b")
    assert trained.matched(matched) is matched


def test_labels_of_a_column_have_the_levels_of_the_model(tmp_path: Path) -> None:
    """A new file that holds two of three classes: its own levels would be {0, 1}."""
    trained = Names(("size", "v"), {"size": ("small", "middle", "large")})
    good = written(tmp_path / "t.csv", "v,size", ["1,large", "2,middle", "3,large"])
    data = trained.matched(lb.data.load(good, splits="all", categorical=["size"]))
    assert data.examples("all").tolist() == [[1, 1], [0.5, 2], [1, 3]]
    assert data.categories == {"size": ("small", "middle", "large")}
    path = written(tmp_path / "u.csv", "v,size", ["1,large", "2,mid", "3,large"])
    with pytest.raises(ValueError, match="column 'size': unknown class 'mid'; did you mean 'midd"):
        trained.matched(lb.data.load(path, splits="all", categorical=["size"]))
    classes = ["size=small|middle|large", "v"]
    both = lb.data.load(good, splits="all", columns=["size", "v"], categorical=classes)
    with pytest.raises(ValueError, match="'v' holds classes .* was trained on numbers there"):
        trained.check(both)


def test_classes_of_y_have_the_numbers_of_the_model() -> None:
    trained = Names(classes=("ant", "bee", "cat"))
    data = lb.data.from_arrays(X[:3], y=["cat", "ant", "cat"], splits="all")
    assert data["all"].y.tolist() == [1, 0, 1]
    matched = trained.matched(data, takes_classes=True)
    assert matched["all"].y.tolist() == [2, 0, 2]
    assert matched.condition == 3
    assert trained.matched(data) is data  # to a model that is told nothing of y they are no matter
    with pytest.raises(ValueError, match="unknown class 'dog'"):
        trained.matched(replace(data, classes=("ant", "dog")), takes_classes=True)


class TestFiles:
    def test_columns_are_chosen_by_name_and_the_rest_may_hold_anything(
        self, tmp_path: Path
    ) -> None:
        path = written(tmp_path / "t.csv", "id,b,a,when", ["r1,1,2.5,x", "r2,3,4.5,"])
        data = lb.data.load(path, splits="all", columns=["a", "b"])
        assert data.examples("all").tolist() == [[2.5, 1], [4.5, 3]]
        assert (data.columns, data.left_out) == (("a", "b"), ("id", "when"))
        data = lb.data.load(path, splits="all", ignore=["id", "when"])
        assert data.examples("all").tolist() == [[1, 2.5], [3, 4.5]]
        assert (data.options["columns"], data.options["ignore"]) == (["b", "a"], ["id", "when"])
        again = lb.data.load(path, **data.options)
        assert (again.sha256, again.left_out) == (data.sha256, data.left_out)

    def test_a_file_without_names_has_those_that_are_asked_for(self, tmp_path: Path) -> None:
        path = written(tmp_path / "t.csv", "1,2.5", ["3,4.5"])
        with pytest.warns(UserWarning, match=r"t.csv has no names.*by position: a, b"):
            data = lb.data.load(path, splits="all", columns=["a", "b"])
        assert (data.columns, data.examples("all").tolist()) == (("a", "b"), [[1, 2.5], [3, 4.5]])
        assert lb.data.load(path, splits="all", columns=["2"]).examples("all").tolist() == [
            [2.5], [4.5]
        ]  # fmt: skip
        with pytest.raises(ValueError, match="lacks the columns 'a', 'b', 'c'; its columns: 1, 2"):
            lb.data.load(path, splits="all", columns=["a", "b", "c"])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"columns": ["a", "c"]}, "lacks the column 'c'; its columns: a, b"),
            ({"columns": ["a", "a"]}, "the column 'a' stands twice"),
            ({"ignore": ["bb"]}, "unknown column 'bb'; did you mean 'b'.*--data.ignore"),
            ({"ignore": ["b"], "columns": ["b"]}, "'b' is to be ignored and to be used"),
            ({"labels": "b", "columns": ["a", "b"]}, "'b' holds labels, so it is no part of x"),
            ({"ignore": ["b"], "categorical": ["b"]}, "'b' is to be ignored and to be used"),
        ],
    )
    def test_columns_that_cannot_be_chosen(
        self, tmp_path: Path, options: dict[str, object], message: str
    ) -> None:
        path = written(tmp_path / "t.csv", "a,b", ["1,2", "3,4"])
        with pytest.raises(ValueError, match=message):
            lb.data.load(path, splits="all", **options)

    def test_a_name_that_stands_twice_is_refused(self, tmp_path: Path) -> None:
        path = written(tmp_path / "t.csv", "a,b,a", ["1,2,3"])
        with pytest.raises(ValueError, match=r"'a' stands twice \(columns 1 and 3\); rename"):
            lb.data.load(path, splits="all")
        with pytest.raises(ValueError, match=r"'a' stands 3 times \(columns 1, 2 and 3\)"):
            card(["a", "a", "a"], np.ones((9, 3)))
