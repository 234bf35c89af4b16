"""The user's own arrays: .npy and .npz files, never unpickled.

A large .npy stays in its file (:mod:`lowerbound.data.mapped`). Loading takes twice its size, since
the splits are copies, and as float32, which units and starting points are taken from, four times
the size of 8-bit pixels. So a file is mapped where it is larger than a quarter of the memory; a
smaller one is faster to shuffle in memory.
"""

from __future__ import annotations

import errno
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.data.dataset import Stored
from lowerbound.data.mapped import MappedArray, Memory, check_length, is_large, npy_header
from lowerbound.utils.memory import check_fits
from lowerbound.utils.messages import first_line, unknown

MAGIC = b"\x93NUMPY"
FACTORS = ("factors", "latents_classes")  # the second is what dSprites calls them


def read(
    path: Path,
    array: str | None = None,
    labels: str | None = None,
    factors: str | None = None,
    memory: Memory = "auto",
    missing: str = "refuse",
) -> Stored:
    """The examples in a .npy file, or in one array of a .npz file.

    Args:
        path: the file.
        array: which array of a .npz holds the examples; "x" or the only one by default, or "imgs",
            as in dSprites.
        labels: which array of a .npz holds the labels; "y" by default, where there is one.
        factors: which holds what the examples were made from; "factors" or "latents_classes" by
            default, where there is one.
        memory: "map" leaves the values of a .npy in the file, "load" reads them, "auto" maps what
            is large.
        missing: "marginalise" has values read, since where they are missing is kept beside them.

    Raises:
        ValueError: the file is empty, truncated, holds objects, declares more than fits into
            memory, or lacks the array.
        OSError: the file cannot be read.
    """
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes)")
    with path.open("rb") as stream, _whole_numpy(path):
        if stream.read(len(MAGIC)) == MAGIC:
            return _npy(path, stream, memory, missing)
        if memory == "map":
            raise ValueError(
                f"{path} cannot be mapped: only a .npy can be, and not what is packed in a .npz"
            )
        stream.seek(0)
        x, y, v = _choose(path, np.load(stream, allow_pickle=False), array, labels, factors)
    return Stored(x, y, source=str(path), factors=v)


@contextmanager
def _whole_numpy(path: Path) -> Iterator[None]:
    """Say in one line that a file is damaged, by whatever error numpy, zipfile and zlib say it."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # of the disk, and not of what stands in the file
        if "allow_pickle" in str(error) or "pickled" in str(error):
            raise ValueError(
                f"{path} holds Python objects, which are never loaded since that can run code (or "
                "it is no numpy file); save a plain array of numbers instead"
            ) from None
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise ValueError(f"{path} cannot be read as a numpy file: {first_line(error)}") from None


def _npy(path: Path, stream: IO[bytes], memory: Memory, missing: str) -> Stored:
    """The array of a .npy, read or left in its file."""
    stream.seek(0)
    shape, is_fortran, dtype = npy_header(stream)
    needed, offset = math.prod(shape) * dtype.itemsize, stream.tell()
    unfit = _unfit_to_map(is_fortran, dtype, missing) if needed else "it is empty"
    if memory == "map" and unfit:
        raise ValueError(f"{path} cannot be mapped: {unfit}; let it be loaded (--data.memory load)")
    if not unfit and (memory == "map" or (memory == "auto" and is_large(needed))):
        return Stored(MappedArray(path, shape, dtype, offset), source=str(path))
    can = "" if unfit else " (--data.memory map leaves the values in the file)"
    check_fits(needed, str(path), f"keep fewer examples, or smaller ones{can}")
    if not dtype.hasobject:
        check_length(path, needed, path.stat().st_size - offset)
    stream.seek(0)
    return Stored(np.load(stream, allow_pickle=False), source=str(path))


def _choose(
    path: Path, loaded: Any, array: str | None, labels: str | None, factors: str | None
) -> tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any] | None]:
    names = list(loaded.files)
    if array is None and len(names) == 1:
        array = names[0]
    wanted = array or ("imgs" if "imgs" in names and "x" not in names else "x")
    if wanted not in names:
        raise ValueError(
            f"{path}: {unknown('array', wanted, names)}; choose with array= (--data.array)"
        )
    if labels is not None and labels not in names:
        raise ValueError(
            f"{path}: {unknown('array', labels, names)}; choose with labels= (--data.labels)"
        )
    if factors is not None and factors not in names:
        raise ValueError(
            f"{path}: {unknown('array', factors, names)}; choose with factors= (--data.factors)"
        )
    factor_name = factors or next(
        (name for name in FACTORS if name in names and name != wanted), None
    )
    label_name = labels or ("y" if "y" in names and wanted != "y" else None)
    chosen = [name for name in (wanted, label_name, factor_name) if name is not None]
    needed = 0
    # what an array declares, not what the archive says it packs: that may be a few bytes
    for name in chosen:
        with loaded.zip.open(_member(loaded.zip, name)) as stream:
            needed += _declared(stream)
    check_fits(needed, str(path))
    x, y, v = (
        None if name is None else _packed(loaded.zip, name)
        for name in (wanted, label_name, factor_name)
    )
    assert x is not None  # it was asked for by name
    return x, y, v


def _unfit_to_map(is_fortran: bool, dtype: np.dtype[Any], missing: str) -> str:
    """Why values cannot stay in their file; "" where they can."""
    if is_fortran:
        return (
            "it is in Fortran order, each example scattered over the file "
            "(np.save(path, np.ascontiguousarray(x)))"
        )
    if dtype.kind not in "buif":
        return f"it holds values of type {dtype}"
    if missing == "marginalise" and dtype.kind == "f":
        return "where values are missing is kept beside them in memory"
    return ""


def _member(archive: zipfile.ZipFile, name: str) -> str:
    return f"{name}.npy" if f"{name}.npy" in archive.namelist() else name


def _packed(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """An array of a .npz, read to its end, where the checksum of the archive is compared."""
    with archive.open(_member(archive, name)) as stream:
        values: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
        if stream.read(1):
            raise ValueError(f"the array {name} is longer than its header declares")
    return values


def _declared(stream: IO[bytes]) -> int:
    """The bytes that an array takes, by the header that it starts with."""
    shape, _, dtype = npy_header(stream)
    return math.prod(shape) * dtype.itemsize
