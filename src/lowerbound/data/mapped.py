"""Arrays that stay in their file: mapped into memory and read as they are needed, so that they may
be larger than it.

A training epoch in a random order would read such a file in pieces of a few hundred bytes. So it is
shuffled by windows: blocks of contiguous examples are drawn in a random order, so many of them make
a window, and within a window all examples are shuffled. Every example comes once an epoch. A window
holds about a thousand blocks from all over the file: of a file sorted by class, the share p of a
class in a window has the standard error sqrt(p (1 - p) / 1000), a third of that in a batch of 128
examples, however far examples of the file depend on their neighbours. The order follows from the
seed, the epoch and the sizes alone. Data that fit into one window are in the order of data in
memory.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.utils.memory import physical_memory

CHUNK = 2**25  # bytes at a time where all are read in turn: 32 MiB
# bytes of contiguous examples: 256 KiB are read from a disk almost as fast as in turn
BLOCK = 2**18
# the part of the memory, one in so many, that values may take to be loaded where nobody says
SHARE = 4
WINDOW = 2**28  # bytes of a window: 256 MiB, a thousand blocks, of which two are in memory at once


Memory = Literal["auto", "map", "load"]


def is_large(needed: int) -> bool:
    """Whether so many bytes of values are left in their file where nobody says."""
    there = physical_memory()
    return there is not None and needed > there / SHARE


def npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is in Fortran order, and type of a .npy, by the header that it starts
    with.
    """
    version = np.lib.format.read_magic(stream)
    # version 3 differs from 2 only in the encoding of field names, which arrays of numbers have not
    header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, is_fortran, dtype = header(stream)
    return shape, is_fortran, dtype


def check_length(path: Path, declared: int, there: int) -> None:
    """Refuse a .npy whose values are not as many bytes as its header declares: one number of the
    shape that was damaged would give other examples.

    Raises:
        ValueError: what it declares, and what it holds.
    """
    if there != declared:
        what = "has been cut off" if there < declared else "is damaged, or two files in one"
        raise ValueError(
            f"{path} cannot be read as a numpy file: it declares {declared:,} bytes of values and "
            f"holds {max(0, there):,}; it {what}"
        )


class MappedArray:
    """An array in a file that is read when it is looked at.

    The file must not change meanwhile; if it is cut off, the system ends the process that reads
    beyond its end.

    Args:
        path: the file.
        shape: (n, *X).
        dtype: of the values.
        offset: where they begin, in bytes.

    Raises:
        ValueError: the file is shorter than that, or longer.
    """

    def __init__(
        self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int
    ) -> None:
        needed = math.prod(shape) * dtype.itemsize
        check_length(path, needed, path.stat().st_size - offset)
        with path.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self.values: NDArray[Any] = np.frombuffer(
            self._map, dtype, math.prod(shape), offset
        ).reshape(shape)
        self.path, self.offset = path, offset

    @classmethod
    def of_npy(cls, path: Path) -> MappedArray:
        """The array of a .npy file in C order."""
        with path.open("rb") as stream:
            shape, _, dtype = npy_header(stream)
            return cls(path, shape, dtype, stream.tell())

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    @property
    def ndim(self) -> int:
        return self.values.ndim

    @property
    def row_bytes(self) -> int:
        """The bytes of one example in the file."""
        return max(1, self.values.itemsize * math.prod(self.shape[1:]))

    def __len__(self) -> int:
        return len(self.values)

    def chunks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """All values in turn, (b, *X), and the number of the first example of each chunk."""
        size = max(1, CHUNK // self.row_bytes)
        for start in range(0, len(self), size):
            yield start, self.values[start : start + size]
            self.release(start, start + size)

    def will_need(self, start: int, stop: int) -> None:
        """Have the examples start..stop-1 read from the disk, without waiting for them."""
        self._advise("MADV_WILLNEED", start, stop)

    def release(self, start: int, stop: int) -> None:
        """Let go of the memory of examples start..stop-1; the system may keep them as a cache of
        the file.
        """
        self._advise("MADV_DONTNEED", start, stop)

    def _advise(self, what: str, start: int, stop: int) -> None:
        if sys.platform == "win32":  # which has no such call, and does without
            return
        first = (self.offset + start * self.row_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
        last = self.offset + min(stop, len(self)) * self.row_bytes
        if last > first:
            self._map.madvise(getattr(mmap, what), first, last - first)


class MappedRows:
    """Some rows of a mapped array as a tensor of one type: what a split holds in place of a tensor.

    Indexed by a slice or by positions, it gives a tensor of those rows.

    Args:
        array: the array in the file.
        dtype: of the tensors.
        index: which of its examples, ascending, int64 (n,); None for all.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "x.npy")
        >>> np.save(path, np.arange(12.0).reshape(6, 2))
        >>> array = MappedArray(path, (6, 2), np.dtype(float), 128)
        >>> rows = MappedRows(array, np.dtype(np.float32), np.array([1, 4, 5]))
        >>> rows[torch.tensor([2, 0])], rows.shape
        (tensor([[10., 11.],
                [ 2.,  3.]]), (3, 2))
    """

    def __init__(
        self, array: MappedArray, dtype: np.dtype[Any], index: NDArray[np.int64] | None = None
    ) -> None:
        self.array, self._dtype, self.index = array, dtype, index

    @property
    def dtype(self) -> torch.dtype:
        """Of the tensors."""
        return self[0:0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.array.shape[1:])

    def __len__(self) -> int:
        return len(self.array) if self.index is None else len(self.index)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        place = rows if isinstance(rows, slice) else rows.cpu().numpy()
        if self.index is not None:
            place = self.index[place]
        values = self.array.values[place]
        # a slice is a view of the file, which nobody may write to; an index has copied already
        return torch.from_numpy(values.astype(self._dtype, copy=isinstance(place, slice)))

    def rows(self, index: Tensor) -> MappedRows:
        """Those at ``index``, ascending, which stay in the file."""
        positions = index.numpy()
        if self.index is not None:
            positions = self.index[positions]
        return MappedRows(self.array, self._dtype, positions)

    def chunks(self) -> Iterator[Tensor]:
        """All rows in turn."""
        size = max(1, CHUNK // self.array.row_bytes)
        for start in range(0, len(self), size):
            yield self[start : start + size]
            self.release(start, start + size)

    def release(self, start: int, stop: int) -> None:
        """Let go of the memory of rows start..stop-1."""
        self.array.release(*self._span(start, min(stop, len(self))))

    @property
    def block(self) -> int:
        """Rows in a block."""
        return max(1, BLOCK // self.array.row_bytes)

    @property
    def window(self) -> int:
        """Rows in a window."""
        return max(1, WINDOW // self.array.row_bytes // self.block) * self.block

    def read_ahead(self, order: Tensor, done: int, count: int) -> None:
        """At the beginning of each window, have the next one read from the disk and let go of the
        one before.

        Args:
            order: of the epoch, as :func:`windowed` gives it.
            done: how many examples of it are past.
            count: how many come now.
        """
        number = -(-done // self.window)
        if number * self.window >= done + count:
            return  # no window begins here
        asked = [number, number + 1] if number == 0 else [number + 1]
        for window, advise in [
            (number - 1, self.array.release),
            *((following, self.array.will_need) for following in asked),
        ]:
            if window >= 0:
                positions = order[window * self.window : (window + 1) * self.window]
                for block in (positions // self.block).unique().tolist():
                    start, stop = block * self.block, min((block + 1) * self.block, len(self))
                    advise(*self._span(start, stop))

    def _span(self, start: int, stop: int) -> tuple[int, int]:
        """Where the rows start..stop-1 lie among the examples of the file."""
        if self.index is None or stop <= start:
            return start, stop
        return int(self.index[start]), int(self.index[stop - 1]) + 1


def windowed(n: int, seed: tuple[int, ...], block: int, window: int) -> Tensor:
    """The numbers 0..n-1 shuffled by windows of random blocks, int64 (n,).

    Args:
        n: how many.
        seed: of the order.
        block: contiguous numbers that stay in one window, but where windows meet.
        window: how many are shuffled together; where it holds all n, the order is that of data in
            memory.

    Example:
        >>> windowed(10, (0, 1), block=2, window=4)
        tensor([3, 9, 8, 2, 6, 7, 1, 0, 4, 5])
    """
    generator = np.random.default_rng(seed)
    if n <= window:
        return torch.from_numpy(generator.permutation(n))
    blocks = generator.permutation(-(-n // block))
    order = (blocks[:, None] * block + np.arange(block)).ravel()
    order = order[order < n]
    for start in range(0, n, window):
        generator.shuffle(order[start : start + window])
    return torch.from_numpy(order)
