"""Larochelle's .amat text: read as bytes, found plain or gzipped, refused where it is another
text.
"""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

import lowerbound as lb
from lowerbound.data import mnist_static
from lowerbound.supports import BINARY

RNG = np.random.default_rng(0)


def amat(x: np.ndarray) -> bytes:
    return "".join(" ".join(map(str, row)) + "\n" for row in x.reshape(len(x), -1)).encode()


@pytest.mark.parametrize("packed", [False, True])
def test_plain_and_gzipped_text_are_the_same_set(
    packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOWERBOUND_DATA", str(tmp_path))
    (tmp_path / "mnist_static").mkdir()
    x = {
        name: RNG.integers(0, 2, (n, 784)) for name, n in (("train", 5), ("valid", 2), ("test", 3))
    }
    for name, part in x.items():
        path = tmp_path / "mnist_static" / f"binarized_mnist_{name}.amat"
        if packed:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(amat(part)))
        else:
            path.write_bytes(amat(part))
    sums = {name: hashlib.sha256(amat(part)).hexdigest() for name, part in x.items()}
    monkeypatch.setattr(mnist_static, "SHA256", sums)
    data = lb.data.load("mnist_static")
    assert data.support == BINARY
    for name, part in x.items():
        assert torch.equal(data.examples(name).flatten(1), torch.from_numpy(part).float())


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"0 " * 783,
        amat(np.zeros((2, 784), int))[:-1],
        amat(np.zeros((2, 784), int)).replace(b"0", b"2", 1),
        amat(np.zeros((2, 784), int)).replace(b"0", b".", 1),
        amat(np.zeros((2, 784), int)).replace(b" ", b",", 1),
        amat(np.zeros((2, 784), int)).replace(b"\n", b" ", 1),
    ],
)
def test_another_text_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="here (holds|is no text)"):
        mnist_static.pixels(text, "here")


def test_a_truncated_gzip_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWERBOUND_DATA", str(tmp_path))
    (tmp_path / "mnist_static").mkdir()
    packed = gzip.compress(amat(RNG.integers(0, 2, (5, 784))))
    (tmp_path / "mnist_static" / "binarized_mnist_train.amat.gz").write_bytes(packed[:-20])
    with pytest.raises(
        ValueError, match=r"binarized_mnist_train\.amat\.gz is not a whole gzip file"
    ):
        lb.data.load("mnist_static")


def test_the_canonical_files(real_data: Path) -> None:
    data = lb.data.load("mnist_static")
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 50_000,
        "valid": 10_000,
        "test": 10_000,
    }
    assert data.event_shape == (1, 28, 28)
    assert data.support == BINARY
    assert data["train"].y is None
    # the test set of MNIST, each pixel drawn with its grey value as the probability: as bright,
    # within the error of a draw
    bright = data["test"].values.float().mean((1, 2, 3))
    grey = lb.data.load("mnist")["test"].values.float().mean((1, 2, 3)) / 255
    assert abs(bright.mean() - grey.mean()) < 4 * bright.std() / 100
