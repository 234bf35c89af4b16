"""CIFAR-10: 60,000 colour pictures of 32x32 8-bit pixels in ten classes (Krizhevsky 2009)."""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lowerbound.data.dataset import Stored
from lowerbound.data.fetch import canonical_file

MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)
NAME = "cifar-10-binary.tar.gz"
# as published on the page of the set, which gives no other
CHECKSUM = "md5:c32a1d4ab5d03f1284b67883e8d87530"
FILES = tuple(
    f"cifar-10-batches-bin/{name}.bin"
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
)
SHAPE = (3, 32, 32)
# the class in one byte, then the red, the green and the blue plane, row by row
RECORD = 1 + 3 * 32 * 32


def read() -> Stored:
    """All 60,000; the last 5,000 of the 50,000 for training serve as validation."""
    x, y, test = read_archive(canonical_file("cifar10", NAME, CHECKSUM, MIRRORS))
    train = len(x) - test
    return Stored(
        x=x,
        y=y,
        levels=256,
        parts={"train": train - train // 10, "valid": train // 10, "test": test},
        source="CIFAR-10, the binary version (Krizhevsky 2009)",
    )


def read_archive(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], int]:
    """Pictures (n, 3, 32, 32) and classes (n,) in the order of the files, and how many at the end
    are for testing.

    Nothing is unpacked to disk.

    Raises:
        ValueError: the archive is damaged, or lacks a file of the set.
    """
    batches = []
    try:
        with tarfile.open(path, "r:gz") as archive:
            for name in FILES:
                stream = archive.extractfile(name)
                if stream is None:
                    raise ValueError(f"{path}: {name} is no file")
                batches.append(records(stream.read(), f"{path}: {name}"))
    except (tarfile.TarError, EOFError, KeyError, OSError, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be read as CIFAR-10's binary archive: {str(error).strip(chr(34))}"
        ) from None
    x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return x, y, len(batches[-1][0])


def records(raw: bytes, where: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures (n, 3, 32, 32) and classes (n,) of the records in one file.

    Args:
        raw: the file's content.
        where: its name, for errors.

    Raises:
        ValueError: not a whole number of records, or a class beyond 9.

    Example:
        >>> x, y = records(bytes([7]) + bytes(3072), "one record")
        >>> x.shape, y.tolist()
        ((1, 3, 32, 32), [7])
    """
    if not raw or len(raw) % RECORD:
        raise ValueError(
            f"{where} holds {len(raw):,} bytes, which is not a whole number of records of "
            f"{RECORD:,}"
        )
    table = np.frombuffer(raw, np.uint8).reshape(-1, RECORD)
    y = table[:, 0].astype(np.int64)
    if y.max() > 9:
        raise ValueError(f"{where} holds a picture of class {y.max()}, and there are ten, 0..9")
    return table[:, 1:].reshape(-1, *SHAPE), y
