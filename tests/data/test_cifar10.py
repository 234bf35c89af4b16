"""CIFAR-10's binary archive: records, splits, and what is refused; real pictures where they are."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

import lowerbound as lb
from lowerbound.data import cifar10
from lowerbound.supports import Levels
from tests.pictures import cifar10_archive, colour_pictures

RNG = np.random.default_rng(0)


def some(n: int) -> tuple[np.ndarray, np.ndarray]:
    return RNG.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8), RNG.integers(0, 10, n)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the archive of this test belongs, in a folder that a person might have."""
    monkeypatch.setenv("LOWERBOUND_DATA", str(tmp_path / "mes données"))
    monkeypatch.setenv("LOWERBOUND_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mes données" / "cifar10").mkdir(parents=True)
    return tmp_path / "mes données" / "cifar10" / cifar10.NAME


def accepted(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cifar10, "CHECKSUM", "md5:" + hashlib.md5(path.read_bytes()).hexdigest())
    return path


def test_a_record_is_a_class_and_three_planes() -> None:
    x, y = some(7)
    raw = b"".join(bytes([label]) + picture.tobytes() for picture, label in zip(x, y, strict=True))
    back, classes = cifar10.records(raw, "here")
    assert np.array_equal(back, x)
    assert classes.tolist() == y.tolist()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "here holds 0 bytes"),
        (bytes(3072), "here holds 3,072 bytes, which is not a whole number of records of 3,073"),
        (bytes(3073) + b"\x0a" + bytes(3072), "here holds a picture of class 10"),
    ],
)
def test_damaged_records_are_refused(raw: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cifar10.records(raw, "here")


def test_the_last_tenth_of_training_is_validation(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = some(100), some(20)
    accepted(cifar10_archive(place, train, test), monkeypatch)
    data = lb.data.load("cifar10")
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 90,
        "valid": 10,
        "test": 20,
    }
    assert data.event_shape == (3, 32, 32)
    assert data.support == Levels(256)
    assert np.array_equal(torch.cat([data["train"].values, data["valid"].values]).numpy(), train[0])
    assert np.array_equal(torch.cat([data["train"].y, data["valid"].y]).numpy(), train[1])
    assert np.array_equal(data["test"].values.numpy(), test[0])
    assert sorted(path.name for path in place.parent.iterdir()) == [
        cifar10.NAME
    ]  # nothing was unpacked


def test_the_canonical_sizes_are_45_5_and_10_thousand(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = ((np.zeros((n, 3, 32, 32), np.uint8), np.zeros(n)) for n in (50_000, 10_000))
    accepted(cifar10_archive(place, train, test), monkeypatch)
    assert dict(cifar10.read().parts or {}) == {"train": 45_000, "valid": 5_000, "test": 10_000}


def test_the_real_pictures_through_the_canonical_layout(
    real_data: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = colour_pictures(real_data, "train"), colour_pictures(real_data, "test")
    accepted(cifar10_archive(place, train, test), monkeypatch)
    data = lb.data.load("cifar10")
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 9_000,
        "valid": 1_000,
        "test": 1_000,
    }
    assert np.array_equal(data["train"].values.numpy(), train[0][:9_000])
    assert data["train"].y[:5].tolist() == [
        6,
        9,
        9,
        4,
        1,
    ]  # a frog, two trucks, a deer, a car: the set's known start
    assert data["test"].y[:5].tolist() == [3, 8, 8, 0, 6]
    means = data["train"].values.float().mean((0, 2, 3)) / 255
    assert torch.allclose(
        means, torch.tensor([0.4914, 0.4822, 0.4465]), atol=5e-3
    )  # red, green, blue of the whole set


def test_another_archive_is_refused_by_its_sum(place: Path) -> None:
    cifar10_archive(place, some(10), some(2))
    with pytest.raises(
        ValueError, match=r"cifar-10-binary\.tar\.gz is not the canonical file: its md5 sum"
    ) as error:
        lb.data.load("cifar10")
    assert "\n" not in str(error.value)


def test_damaged_archives_are_refused_in_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cifar10_archive(place, some(10), some(2)).read_bytes()
    monkeypatch.setattr(cifar10, "FILES", (*cifar10.FILES, "cifar-10-batches-bin/another.bin"))
    for content in (whole, whole[: len(whole) // 2], b"no archive", b""):
        place.write_bytes(content)
        accepted(place, monkeypatch)
        with pytest.raises(
            ValueError, match="cannot be read as CIFAR-10's binary archive"
        ) as error:
            lb.data.load("cifar10")
        assert "\n" not in str(error.value)
