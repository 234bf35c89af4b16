"""The allocator: memory that a loop frees and asks for again in every step is kept by the process
meanwhile.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from contextlib import AbstractContextManager
from functools import cache

GIB = 2**30
LARGE = 32 * 2**20  # bytes: the most to which glibc raises its own threshold
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # glibc's malloc.h
NEVER = -1


class _Retained:
    """The block of :func:`retain_freed_memory`; blocks within blocks are one, and so are those of
    several threads.
    """

    blocks = 0
    lock = threading.Lock()

    def __enter__(self) -> None:
        with self.lock:
            _Retained.blocks += 1
            if _Retained.blocks == 1:
                _tell_allocator({MMAP_THRESHOLD: GIB, TRIM_THRESHOLD: NEVER})

    def __exit__(self, *_: object) -> None:
        with self.lock:
            _Retained.blocks -= 1
            if _Retained.blocks == 0:
                # where glibc goes by itself once arrays as large have been freed; what it learns is
                # lost as soon as it is told
                _tell_allocator({MMAP_THRESHOLD: LARGE, TRIM_THRESHOLD: 2 * LARGE})
                if glibc := _glibc():
                    glibc.malloc_trim(0)


def retain_freed_memory() -> AbstractContextManager[None]:
    """Let the process keep the memory of arrays that it frees in a block for the next ones, and
    give it back afterwards.

    glibc fetches large arrays from the system and returns them when they are freed, those of 32 MiB
    and more always, and the system clears every page that is fetched again. Where the same arrays
    come in every step that takes longer than the work on them. Arrays of 1 GiB and more are still
    returned. Nothing is done on other systems, nor where the environment says how memory is to be
    allocated (``MALLOC_TRIM_THRESHOLD_``, ``GLIBC_TUNABLES`` and the like).

    Example:
        >>> import torch
        >>> with retain_freed_memory():
        ...     total = sum(float(torch.ones(1000).sum()) for _ in range(3))
        >>> total
        3000.0
    """
    return _Retained()


def _tell_allocator(settings: dict[int, int]) -> None:
    if glibc := _glibc():
        for name, value in settings.items():
            glibc.mallopt(name, value)


@cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, where it is glibc and the user has not told it how to allocate."""
    is_told = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    return None if is_told or platform.libc_ver()[0] != "glibc" else ctypes.CDLL(None)
