"""Canonical files of public data sets: found on disk or downloaded, and never used before their
checksum agrees.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lowerbound.data.dataset import Stored


def checksum_of(path: Path, algorithm: str, unpack: bool = False) -> str:
    """The checksum of a file, or of what a gzipped file holds, in hexadecimal.

    Args:
        path: the file.
        algorithm: "sha256" or "md5".
        unpack: the file is gzipped, and the sum is of its content.

    Raises:
        ValueError: a file to unpack is not a whole gzip file.
    """
    if not unpack:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, algorithm).hexdigest()
    with _whole_gzip(path), gzip.open(path) as content:
        return hashlib.file_digest(content, algorithm).hexdigest()


def cache_folder() -> Path:
    """Where files are kept that can be had again: LOWERBOUND_CACHE, or the system's cache
    folder.
    """
    import pooch

    return Path(os.environ.get("LOWERBOUND_CACHE") or pooch.os_cache("lowerbound"))


def canonical_file(folder: str, name: str, checksum: str, mirrors: Sequence[str]) -> Path:
    """The path of a canonical file, checksum verified.

    It is looked for in the folder that the environment variable LOWERBOUND_DATA names, then in the
    cache (LOWERBOUND_CACHE, or the system's cache folder), then at the mirrors. On disk it may also
    lie gzipped, as NAME.gz: the checksum is then that of what it holds, since gzip writes the same
    content in many ways.

    Args:
        folder: the data set's folder.
        name: the file.
        checksum: "sha256:..." or "md5:...", whichever its authors published.
        mirrors: addresses of folders, tried in order.

    Raises:
        ValueError: a file found on disk has another checksum.
        OSError: no mirror could be reached.
    """
    import pooch

    algorithm, _, wanted = checksum.partition(":")
    cache = cache_folder()
    canonical = os.environ.get("LOWERBOUND_DATA")
    for place in ([Path(canonical)] if canonical else []) + [cache]:
        for path in (place / folder / name, place / folder / f"{name}.gz"):
            if not path.is_file():
                continue
            there = checksum_of(path, algorithm, unpack=path.name != name)
            if there != wanted:
                raise ValueError(
                    f"{path} is not the canonical file: its {algorithm} sum is {there[:16]}… and "
                    f"should be {wanted[:16]}…; delete it to have it downloaded again"
                )
            return path
    pooch.get_logger().setLevel(logging.WARNING)
    failures = []
    for mirror in mirrors:
        try:
            return Path(pooch.retrieve(mirror + name, checksum, fname=name, path=cache / folder))
        except (
            OSError,
            ValueError,
        ) as error:  # requests' errors are OSErrors; a wrong checksum is a ValueError
            failures.append(f"{mirror.split('/')[2]} ({type(error).__name__})")
    raise OSError(
        f"{name} is neither in LOWERBOUND_DATA ({canonical or 'not set'}) nor in the cache "
        f"{cache / folder}, and could not be downloaded from {', '.join(failures)}; put the file "
        f"into {cache / folder} by hand to work offline"
    )


def unzipped(path: Path) -> bytes:
    """What a file holds, unpacked where its name ends in .gz.

    Raises:
        ValueError: a .gz that is truncated or damaged.
    """
    if path.suffix != ".gz":
        return path.read_bytes()
    with _whole_gzip(path), gzip.open(path) as stream:
        return stream.read()


@contextmanager
def _whole_gzip(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}") from None


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array in a gzipped idx file of unsigned bytes (LeCun, Cortes and Burges): 2-byte zero,
    type, rank, sizes, data.

    Raises:
        ValueError: the file is truncated or no idx file of bytes.
    """
    raw = unzipped(path)
    rank = raw[3] if len(raw) > 3 else 0
    if raw[:3] != b"\x00\x00\x08" or rank == 0 or len(raw) < 4 + 4 * rank:
        raise ValueError(f"{path} does not start like an idx file of unsigned bytes")
    sizes = [int(size) for size in np.frombuffer(raw, ">u4", rank, 4)]
    body = np.frombuffer(raw, np.uint8, offset=4 + 4 * rank)
    if body.size != math.prod(sizes):
        raise ValueError(f"{path} declares {sizes} but holds {body.size} bytes")
    return body.reshape(sizes)


def read_idx_set(
    folder: str, sums: Mapping[str, str], mirrors: Sequence[str], source: str, licence: str
) -> Stored:
    """A set published like MNIST: four idx files, 60,000 grey pictures for training and 10,000 for
    testing.

    All 70,000 are in the published order; the last 10,000 of those for training serve as
    validation.
    """
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    paths = [
        canonical_file(folder, f"{name}-ubyte.gz", f"sha256:{sums[name]}", mirrors)
        for name in names
    ]
    images, labels, test_images, test_labels = (read_idx(path) for path in paths)
    return Stored(
        x=np.concatenate([images, test_images])[:, None],
        y=np.concatenate([labels, test_labels]).astype(np.int64),
        levels=256,
        parts={"train": 50_000, "valid": 10_000, "test": 10_000},
        source=source,
        licence=licence,
    )
