"""Randomness by seed: what is random takes a seed, and draws from generators of its own.

So a call gives the same numbers whatever other threads draw or seed meanwhile, and the caller's
global generators are left as they were (:mod:`~lowerbound.utils.streams`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from lowerbound.utils.streams import (
    Stream,
    drawing_from,
    drawing_globally,
    is_drawing_globally,
    stream_of_thread,
)


def random_state() -> dict[str, Tensor]:
    """Where each generator stands that is drawn from here, by device: those of the seeded block, or
    torch's global ones.
    """
    if (stream := stream_of_thread()) is not None:
        return stream.state()
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        state |= {f"cuda{i}": torch.cuda.get_rng_state(i) for i in range(torch.cuda.device_count())}
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def check_random_state(state: Mapping[str, Tensor]) -> None:
    """Refuse random states that torch would not take, before any is set.

    Raises:
        ValueError: of which device.

    Example:
        >>> check_random_state(random_state())
        >>> check_random_state({"cpu": torch.zeros(7, dtype=torch.uint8)})
        Traceback (most recent call last):
        ...
        ValueError: the random state of cpu is none that torch takes
    """
    for device, value in state.items():
        kind = device.rstrip("0123456789")
        if kind not in ("cpu", "cuda", "mps"):
            raise ValueError(f"there is no random state of a device {device!r}")
        is_here = kind == "cpu" or torch.get_device_module(kind).is_available()
        try:
            # torch refuses a state that is none; that of a device which is not here stays unused
            if value.dtype != torch.uint8 or (
                is_here and not torch.Generator(kind).set_state(value)
            ):
                raise RuntimeError
        except RuntimeError:
            raise ValueError(f"the random state of {device} is none that torch takes") from None


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Put the generators that are drawn from here back to where they stood."""
    if (stream := stream_of_thread()) is not None:
        stream.set_state(state)
        return
    for device, value in state.items():
        if device == "cpu":
            torch.set_rng_state(value)
        elif device == "mps":
            torch.mps.set_rng_state(value)
        elif (
            number := int(device.removeprefix("cuda"))
        ) < torch.cuda.device_count():  # it may be another machine's
            torch.cuda.set_rng_state(value, number)


def part_seed(seed: int, part: int) -> int:
    """The seed of one part of what has a seed, whoever works on it and when; the first has the seed
    itself.

    Example:
        >>> part_seed(5, 0), part_seed(5, 1) != part_seed(5, 2)
        (5, True)
    """
    return (
        seed
        if part == 0
        else int(np.random.SeedSequence((seed, part)).generate_state(1, np.uint64)[0] >> 1)
    )


@contextmanager
def seeded(seed: int | None, globally: bool = False) -> Iterator[None]:
    """Run a block that draws from generators of its own, seeded with ``seed``; ``None`` changes
    nothing.

    Args:
        seed: of all that the block draws in this thread.
        globally: draw from torch's global generators, seeded and then put back, as compiled graphs
            must; one call of the process at a time.

    Raises:
        ValueError: another thread draws globally already.

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
    elif globally or is_drawing_globally():
        with drawing_globally():
            before = random_state()
            torch.default_generator.manual_seed(seed)
            # a GPU that has not been used yet is left alone
            if torch.cuda.is_initialized():
                torch.cuda.manual_seed_all(seed)
            if torch.backends.mps.is_available():
                torch.mps.manual_seed(seed)
            try:
                yield
            finally:
                set_random_state(before)
    else:
        with drawing_from(Stream(seed)):
            yield


@contextmanager
def replayed(state: Mapping[str, Tensor]) -> Iterator[None]:
    """Run a block from an earlier random state, so that it draws again what was drawn then; put the
    present one back.
    """
    before = random_state()
    set_random_state(state)
    try:
        yield
    finally:
        set_random_state(before)
