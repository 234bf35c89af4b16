"""The sets that are known by name: checksums, splits, and no network in the tests."""

from __future__ import annotations

import gzip
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import lowerbound as lb
from lowerbound.data import digits as bundled
from lowerbound.data import fetch
from lowerbound.supports import Levels


def test_digits_are_bundled_and_have_17_levels(digits: lb.data.Dataset) -> None:
    assert [len(digits[s]) for s in digits.splits] == [1437, 180, 180]
    assert digits.event_shape == (1, 8, 8)
    assert digits.support == Levels(17)
    assert digits["train"].y.unique().tolist() == list(range(10))
    assert digits.licence == "CC BY 4.0"


def test_the_digits_are_those_that_scikit_learn_reads() -> None:
    from sklearn.datasets import load_digits

    bunch, stored = load_digits(), bundled.read()
    assert np.array_equal(stored.x[:, 0], bunch.images)
    assert np.array_equal(stored.y, bunch.target)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_splits_of_the_canonical_files(real_data: Path, name: str) -> None:
    data = lb.data.load(name)
    assert {s: len(v) for s, v in data.splits.items()} == {
        "train": 50_000,
        "valid": 10_000,
        "test": 10_000,
    }
    assert data.event_shape == (1, 28, 28)
    assert data.support == Levels(256)
    everything = lb.data.load(name, splits="train_test")
    assert {s: len(v) for s, v in everything.splits.items()} == {"train": 60_000, "test": 10_000}
    assert torch.equal(everything["train"].values[50_000:], data["valid"].values)
    assert torch.equal(everything["test"].values, data["test"].values)
    grey = data.examples("test")
    assert grey.min() == 0
    assert grey.max() == 1


def test_mnist_is_mnist(real_data: Path) -> None:
    data = lb.data.load("mnist")
    assert data["train"].y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data["test"].y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert (
        round(float(data["train"].values.float().mean() / 255), 4) == 0.131
    )  # of the first 50,000; 0.1307 of all 60,000


def test_a_wrong_checksum_is_refused(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(real_data / "mnist", tmp_path / "mnist")
    victim = tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz"
    victim.chmod(0o644)
    victim.write_bytes(gzip.compress(b"other"))
    monkeypatch.setenv("LOWERBOUND_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="t10k-labels.* is not the canonical file"):
        lb.data.load("mnist")


def test_either_checksum_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWERBOUND_DATA", str(tmp_path))
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a.bin").write_bytes(b"content")
    for algorithm in ("md5", "sha256"):
        wanted = hashlib.new(algorithm, b"content").hexdigest()
        assert (
            fetch.canonical_file("s", "a.bin", f"{algorithm}:{wanted}", [])
            == tmp_path / "s" / "a.bin"
        )
        with pytest.raises(ValueError, match=f"its {algorithm} sum is {wanted[:16]}"):
            fetch.canonical_file("s", "a.bin", f"{algorithm}:{'0' * len(wanted)}", [])


def test_without_file_and_network_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOWERBOUND_DATA", raising=False)
    monkeypatch.setenv("LOWERBOUND_CACHE", str(tmp_path))
    with pytest.raises(OSError, match="put the file into .* by hand") as error:
        fetch.canonical_file("mnist", "a.gz", "sha256:" + "0" * 64, ["http://127.0.0.1:9/"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x00\x08",
        b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00",
        b"\x00\x00\x08\x01\x00\x00\x00\x09abc",
    ],
)
def test_damaged_idx_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=r"a\.gz"):
        fetch.read_idx(path)
    path.write_bytes(gzip.compress(content + bytes(1000))[:-9])
    with pytest.raises(ValueError, match="not a whole gzip file"):
        fetch.read_idx(path)


def test_idx_is_read_with_its_shape(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(
        gzip.compress(b"\x00\x00\x08\x02" + np.array([2, 3], ">u4").tobytes() + bytes(range(6)))
    )
    assert fetch.read_idx(path).tolist() == [[0, 1, 2], [3, 4, 5]]
