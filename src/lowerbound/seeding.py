"""Randomness by seed: what is random takes a seed, and the caller's global state is left as it was.

torch's ``rsample`` has no generator argument, so a seed can only act through the global state; it is therefore forked,
seeded, and restored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Run a block under torch's global generators seeded with ``seed``, then put them back; ``None`` changes nothing.

    Example:
        >>> with seeded(0):
        ...     first = torch.randn(2)
        >>> with seeded(0):
        ...     again = torch.randn(2)
        >>> torch.equal(first, again)
        True

    """
    if seed is None:
        yield
        return
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
