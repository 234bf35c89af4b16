"""The options of data: what stands in a run's configuration loads the same data again, and what is
wrong is said before a file is read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lowerbound as lb

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"levels": 256, "binarize": "threshold", "splits": "train_test", "seed": 3},
        {"dequantize": True, "flip": True, "shift": 1, "labelled": 6, "labelled_share": 0.5},
        {"classes": ["2", "1", "0"], "strip": (1, 2), "labels": "y"},
    ],
)
def test_the_record_loads_the_same_data_again(tmp_path: Path, options: dict[str, object]) -> None:
    path = tmp_path / "pictures.npz"
    pictures = RNG.integers(0, 256, (60, 1, 6, 6)).astype(np.uint8)
    np.savez(path, x=pictures, y=np.arange(60) % 3)
    first = lb.data.load(path, **options)
    again = lb.data.load(path, **first.options)
    assert again.options == first.options
    assert again.sha256 == first.sha256
    assert str(again) == str(first)
    for name, split in first.splits.items():
        assert again[name].values.equal(split.values)
        assert again[name].y.equal(split.y)


def test_of_arrays_in_memory_nothing_is_recorded_that_only_files_have() -> None:
    options = lb.data.from_arrays(RNG.normal(size=(20, 3))).options
    assert not {"array", "labels", "factors", "size", "memory"} & options.keys()
    assert options["levels"] == "none"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": "halves"}, "unknown value of splits 'halves'"),
        ({"binarize": "yes"}, "unknown value of binarize 'yes'"),
        ({"missing": "fill"}, "unknown value of missing 'fill'"),
        ({"memory": "disk"}, "unknown value of memory 'disk'"),
        ({"strip": [3]}, "first and the last pixel column"),
    ],
)
def test_a_wrong_option_is_refused_before_the_file_is_read(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        lb.data.load("there_is_no_such_file.npy", **options)


def test_of_several_options_that_a_source_has_not_always_the_same_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", RNG.normal(size=(20, 3)))
    with pytest.raises(ValueError, match=r"^array \(--data.array\) is for a .npz file, and"):
        lb.data.load(tmp_path / "x.npy", size=(2, 2), labels="y", factors="v", array="x")
