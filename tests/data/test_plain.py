"""Labels and options in numpy's or pandas' types: taken at the door as Python's own, or refused
there, so that a run folder can hold what they were.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import lowerbound as lb
from lowerbound.data.dataset import Dataset

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
LEVELS = RNG.integers(0, 17, (60, 1, 4, 4))
NAMES = np.array(["a", "b", "c"])
CODES = np.arange(60) % 3
TEXT = NAMES[CODES]


@pytest.mark.parametrize(
    "labels",
    [
        list(TEXT),
        TEXT.astype(object),
        np.array([np.str_(label) for label in TEXT], dtype=object),
        TEXT.astype(np.dtypes.StringDType()),
    ],
    ids=["list", "objects", "objects of numpy", "StringDType"],
)
def test_text_is_text_however_it_is_held(labels: object) -> None:
    data, same = lb.data.from_arrays(X, labels), lb.data.from_arrays(X, TEXT)
    assert data.classes == ("a", "b", "c")
    assert data.sha256 == same.sha256
    assert data.options == same.options


def test_whole_numbers_in_an_array_of_objects_are_classes() -> None:
    data = lb.data.from_arrays(X, np.array([int(c) for c in CODES], dtype=object))
    assert data.classes == ("0", "1", "2")
    assert torch.equal(data["train"].y, lb.data.from_arrays(X, CODES)["train"].y)


@pytest.mark.parametrize(
    ("label", "types"), [(None, "NoneType, str"), (1, "int, str"), (float("nan"), "float, str")]
)
def test_labels_of_several_types_are_refused(label: object, types: str) -> None:
    labels = TEXT.astype(object)
    labels[7] = label
    with pytest.raises(TypeError, match=f"^x has labels of type {types}; all must be"):
        lb.data.from_arrays(X, labels)


@pytest.mark.parametrize(
    ("x", "y", "of_numpy", "of_python"),
    [
        (X, TEXT, {"classes": NAMES[::-1]}, {"classes": ["c", "b", "a"]}),
        (X, TEXT, {"classes": NAMES.astype(object)}, {"classes": ["a", "b", "c"]}),
        (X, CODES, {"classes": np.arange(3)}, {"classes": ["0", "1", "2"]}),
        (X, CODES, {"classes": list(np.arange(3))}, {"classes": ["0", "1", "2"]}),
        (X, TEXT, {"seed": np.int64(3)}, {"seed": 3}),
        (X, TEXT, {"labelled": np.int32(6)}, {"labelled": 6}),
        (
            X,
            TEXT,
            {"labelled": np.int64(6), "labelled_share": np.float64(0.5)},
            {"labelled": 6, "labelled_share": 0.5},
        ),
        (LEVELS, None, {"levels": np.int64(17)}, {"levels": 17}),
        (LEVELS, None, {"shift": np.uint8(1), "flip": np.True_}, {"shift": 1, "flip": True}),
        (
            LEVELS,
            None,
            {"levels": 17, "dequantize": np.True_, "splits": np.str_("train_test")},
            {"levels": 17, "dequantize": True, "splits": "train_test"},
        ),
        (LEVELS, None, {"strip": np.array([0, 1])}, {"strip": [0, 1]}),
    ],
)
def test_options_of_numpy_are_those_of_python(
    x: np.ndarray, y: np.ndarray | None, of_numpy: dict, of_python: dict
) -> None:
    data, same = lb.data.from_arrays(x, y, **of_numpy), lb.data.from_arrays(x, y, **of_python)
    assert yaml.safe_dump(data.options) == yaml.safe_dump(same.options)
    assert data.sha256 == same.sha256
    assert data.classes == same.classes
    assert data.strip == same.strip


def model_for(data: Dataset) -> lb.VAE:
    return lb.VAE(
        lb.priors.StandardNormal((1,)),
        lb.posteriors.DiagonalNormal(data.event_shape, (1,)),
        lb.likelihoods.Normal((1,), data.event_shape),
    )


def test_a_run_on_a_file_holds_what_was_asked_for(tmp_path: Path) -> None:
    rows = "".join(f"{a},{b},{label}\n" for (a, b, _), label in zip(X, TEXT, strict=True))
    (tmp_path / "t.csv").write_text("one,two,kind\n" + rows)
    data = lb.data.load(tmp_path / "t.csv", labels=np.str_("kind"), classes=NAMES, seed=np.int64(2))
    lb.fit(
        model_for(data),
        lb.objectives.ELBO(),
        data,
        epochs=1,
        progress=False,
        out=tmp_path / "run",
    )
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["data"]
    assert (written["labels"], written["classes"], written["seed"]) == ("kind", ["a", "b", "c"], 2)


def test_names_of_columns_may_be_an_array(tmp_path: Path) -> None:
    """Of two names or more, which has no truth value of its own."""
    rows = "".join(f"{X[i, 0]},{'xy'[i % 2]},{TEXT[i]}\n" for i in range(60))
    (tmp_path / "t.csv").write_text("one,side,kind\n" + rows)
    data = lb.data.load(tmp_path / "t.csv", categorical=np.array(["side", "kind"]))
    assert data.options["categorical"] == ["side=x|y", "kind=a|b|c"]
