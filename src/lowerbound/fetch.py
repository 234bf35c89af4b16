"""Canonical files of public data sets: found on disk or downloaded, and never used before their checksum agrees."""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lowerbound.dataset import Stored


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical_file(folder: str, name: str, sha256: str, mirrors: Sequence[str]) -> Path:
    """The path of a canonical file, checksum verified.

    It is looked for in the folder that the environment variable LOWERBOUND_DATA names, then in the cache
    (LOWERBOUND_CACHE, or the system's cache folder), then at the mirrors.

    Args:
        folder: the data set's folder.
        name: the file.
        sha256: its checksum.
        mirrors: addresses of folders, tried in order.

    Raises:
        ValueError: a file found on disk has another checksum.
        OSError: no mirror could be reached.
    """
    import pooch

    cache = Path(os.environ.get("LOWERBOUND_CACHE") or pooch.os_cache("lowerbound"))
    given = os.environ.get("LOWERBOUND_DATA")
    for place in ([Path(given)] if given else []) + [cache]:
        path = place / folder / name
        if path.is_file():
            if sha256_of(path) != sha256:
                raise ValueError(
                    f"{path} is not the canonical file: its SHA-256 is {sha256_of(path)[:16]}… and should be "
                    f"{sha256[:16]}…; delete it to have it downloaded again"
                )
            return path
    pooch.get_logger().setLevel(logging.WARNING)
    failures = []
    for mirror in mirrors:
        try:
            return Path(pooch.retrieve(mirror + name, f"sha256:{sha256}", fname=name, path=cache / folder))
        except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong checksum is a ValueError
            failures.append(f"{mirror.split('/')[2]} ({type(error).__name__})")
    raise OSError(
        f"{name} is neither in LOWERBOUND_DATA ({given or 'not set'}) nor in the cache {cache / folder}, and could not be "
        f"downloaded from {', '.join(failures)}; put the file into {cache / folder} by hand to work offline"
    )


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array in a gzipped idx file of unsigned bytes (LeCun, Cortes and Burges): 2-byte zero, type, rank, sizes, data.

    Raises:
        ValueError: the file is truncated or no idx file of bytes.
    """
    try:
        with gzip.open(path) as stream:
            raw = stream.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}") from None
    rank = raw[3] if len(raw) > 3 else 0
    if raw[:3] != b"\x00\x00\x08" or rank == 0 or len(raw) < 4 + 4 * rank:
        raise ValueError(f"{path} does not start like an idx file of unsigned bytes")
    sizes = [int(size) for size in np.frombuffer(raw, ">u4", rank, 4)]
    body = np.frombuffer(raw, np.uint8, offset=4 + 4 * rank)
    if body.size != np.prod(sizes):
        raise ValueError(f"{path} declares {sizes} but holds {body.size} bytes")
    return body.reshape(sizes)


def read_idx_set(folder: str, sums: Mapping[str, str], mirrors: Sequence[str], source: str, licence: str) -> Stored:
    """A set published like MNIST: four idx files, 60,000 grey pictures for training and 10,000 for testing.

    All 70,000 are in the published order; the last 10,000 of those for training serve as validation.
    """
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    paths = [canonical_file(folder, f"{name}-ubyte.gz", sums[name], mirrors) for name in names]
    images, labels, test_images, test_labels = (read_idx(path) for path in paths)
    return Stored(
        x=np.concatenate([images, test_images])[:, None],
        y=np.concatenate([labels, test_labels]).astype(np.int64),
        levels=256,
        parts={"train": 50_000, "valid": 10_000, "test": 10_000},
        source=source,
        licence=licence,
    )
