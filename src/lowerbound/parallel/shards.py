"""Shards: a batch worked on in pieces, by several processes at once or one after the other, with
the result of the whole.

A loss is a mean over the B examples of a batch, so a piece of b of them weighs b / B. Two things
are more than a mean:

* *Noise.* Every piece draws that of the whole batch and takes its own rows
  (:mod:`~lowerbound.parallel.noise`).
* *Statistics of the batch.* What compares examples takes them from the whole batch:
  :func:`all_gather`, with gradients.

Outside of a shard everything here is the identity.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowerbound.parallel.processes import Processes
from lowerbound.utils.seeding import random_state
from lowerbound.utils.streams import is_drawing_globally


@dataclass(frozen=True)
class Shard:
    """Some rows of a batch.

    Args:
        start: the first.
        stop: behind the last.
        size: B, rows of the whole batch.
        processes: at work on it at the same time, whose gradients will be averaged.
        is_last: whether this process has no other piece of the batch after this one.
        is_spare: whether these rows count elsewhere: a process that is left without any, in a batch
            smaller than there are processes, works on the first row and adds nothing.
        pieces: of each process, one after the other.
    """

    start: int
    stop: int
    size: int
    processes: int = 1
    is_last: bool = True
    is_spare: bool = False
    pieces: int = 1

    @property
    def is_whole(self) -> bool:
        """Whether these are all rows, and no other process is at work."""
        return self.processes == self.pieces == 1

    @property
    def rows(self) -> slice:
        """Which rows."""
        return slice(self.start, self.stop)

    @property
    def weight(self) -> float:
        """Of a mean over these rows, so that the processes' gradients average to that of the mean
        over the batch.
        """
        return 0.0 if self.is_spare else self.processes * (self.stop - self.start) / self.size

    def counted(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Quantities of these rows, (b,) each, as far as they count here; of the usage of codes,
        (codes,), nothing does.
        """
        return (
            {name: value * 0 for name, value in values.items()} if self.is_spare else dict(values)
        )


class _Thread(threading.local):
    """What a thread works on: the rows at hand, and how often it has taken something from the
    whole of their batch.
    """

    shard: Shard | None = None
    all_gathers = 0


_thread = _Thread()
_shard_of_graphs: Shard | None = None
_all_gathers_of_graphs = 0
"""The same of the one thread that may run graphs that draw: a graph can look into the module, and
not into what belongs to a thread.
"""


def active() -> Shard | None:
    """The rows at hand, where they are not all."""
    return _shard_of_graphs if torch.compiler.is_compiling() else _thread.shard


@contextmanager
def entered(shard: Shard | None) -> Iterator[None]:
    """Run a block in which these are the rows at hand of this thread; None for all."""
    global _shard_of_graphs, _all_gathers_of_graphs  # noqa: PLW0603  # see there
    before = active()
    in_graphs = torch.compiler.is_compiling() or is_drawing_globally()
    if in_graphs:
        _shard_of_graphs = shard
        _all_gathers_of_graphs = _all_gathers_of_graphs if shard is None else 0
    if not torch.compiler.is_compiling():
        _thread.shard = shard
        _thread.all_gathers = _thread.all_gathers if shard is None else 0
    try:
        yield
    finally:
        if in_graphs:
            _shard_of_graphs = before
        if not torch.compiler.is_compiling():
            _thread.shard = before


def pieces(size: int, world: Processes, accumulate: int = 1) -> list[Shard]:
    """The shards of a batch that fall to this process, as even as can be.

    Example:
        >>> [shard.rows for shard in pieces(7, Processes(rank=1, size=2))]
        [slice(3, 7, None)]
    """
    count = world.size * accumulate
    shards = []
    for turn in range(accumulate):
        start, stop = (size * (turn * world.size + world.rank + i) // count for i in (0, 1))
        is_spare = start == stop
        start, stop = (0, 1) if is_spare else (start, stop)
        shards.append(
            Shard(start, stop, size, world.size, turn == accumulate - 1, is_spare, accumulate)
        )
    return shards


def replicated() -> AbstractContextManager[None]:
    """For a block that draws what belongs to no example: all processes and pieces draw alike.

    So is noise in the weights of a layer, whatever its shape, and what is drawn of a batch that has
    been gathered.

    Example:
        >>> with replicated():
        ...     noise = torch.randn(6)
    """
    return entered(None)


def batch_mean(values: Tensor) -> Tensor:
    """The mean over a batch, (), of which these are the values of the rows at hand: their share of
    it.
    """
    shard = active()
    return values.mean() if shard is None else values.mean() * shard.weight


def rows_of_batch(n: int) -> int:
    """How many examples the batch has of which n are at hand."""
    shard = active()
    return n if shard is None else shard.size


def own_rows(whole: Tensor, dim: int = 0) -> Tensor:
    """Those rows of what belongs to the whole batch that are at hand."""
    shard = active()
    return whole if shard is None else whole.narrow(dim, shard.start, shard.stop - shard.start)


def all_gather(rows: Tensor, dim: int = 0) -> Tensor:
    """The values of the whole batch, of which these are the rows at hand; gradients go back to
    where a row came from.

    Args:
        rows: those at hand, b along a dimension.
        dim: which.

    Raises:
        ValueError: the batch is worked on in pieces one after the other, so that the rest is not
            there.

    Example:
        >>> all_gather(torch.arange(3))  # by one process
        tensor([0, 1, 2])
    """
    shard = active()
    if shard is None or shard.is_whole:
        return rows
    _check_at_once(shard)
    start, stop = (0, 0) if shard.is_spare else (shard.start, shard.stop)
    return _placed(rows, dim, start, stop, shard.size)


def all_gather_logsumexp(values: Tensor, dim: int) -> Tensor:
    """``torch.logsumexp`` over a dimension that holds the rows at hand, and over those of the other
    processes.
    """
    shard, at_hand = active(), torch.logsumexp(values, dim)
    if shard is None or shard.is_whole:
        return at_hand
    if shard.is_spare:
        at_hand = torch.full_like(at_hand, -math.inf) + 0 * at_hand
    return torch.logsumexp(_of_processes(at_hand, shard), 0)


def all_reduce_sum(value: Tensor) -> Tensor:
    """The sum over the batch, of which this is that over the rows at hand; with gradients."""
    shard = active()
    if shard is None or shard.is_whole:
        return value
    return _of_processes(value * 0 if shard.is_spare else value, shard).sum(0)


def _of_processes(value: Tensor, shard: Shard) -> Tensor:
    """What each process has, (N, ...)."""
    _check_at_once(shard)
    rank = torch.distributed.get_rank()
    return _placed(value[None], 0, rank, rank + 1, shard.processes)


def _check_at_once(shard: Shard) -> None:
    if shard.pieces > 1:
        raise ValueError(
            "a statistic of the batch needs the whole batch, which is worked on in pieces; use "
            "accumulate 1, with more devices or a smaller batch_size"
        )


def has_all_gathered() -> bool:
    """Whether the shard that was entered last has taken anything from the whole of its batch."""
    of_graphs = _all_gathers_of_graphs if is_drawing_globally() else 0
    return _thread.all_gathers + of_graphs > 0


def check_in_step(world: Processes) -> None:
    """Refuse to go on where the processes have drawn different numbers of random numbers, so that
    they would draw others.

    Raises:
        ValueError: they have.
    """
    if world.size == 1:
        return
    states = random_state()
    names = ["cpu"]
    if torch.cuda.is_initialized():
        names.append(f"cuda{torch.cuda.current_device()}")
    state = torch.cat([states[name] for name in names if name in states])
    first = state.clone()
    world.copy_first([first])
    if world.agree(not torch.equal(state, first))[0]:
        raise ValueError(
            "the processes have drawn different amounts of random numbers, so their draws are not "
            "those of one: a part draws as many as its examples ask for; use devices 1, or draw "
            "under lowerbound.parallel.shards.replicated()"
        )


def _placed(rows: Tensor, dim: int, start: int, stop: int, size: int) -> Tensor:
    global _all_gathers_of_graphs  # noqa: PLW0603  # see there
    if torch.compiler.is_compiling():
        _all_gathers_of_graphs += 1
    else:
        _thread.all_gathers += 1
    # torch does not say
    placed: Tensor = _Placed.apply(rows, dim, start, stop, size)  # type: ignore[no-untyped-call]
    return placed


class _Placed(torch.autograd.Function):
    """The sum over the processes of zeros in which each has put its rows; back go the sum of the
    gradients' rows.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, dim: int, start: int, stop: int, size: int) -> Tensor:
        ctx.place = dim, start, stop
        ctx.shape = rows.shape
        shape = list(rows.shape)
        shape[dim] = size
        whole = rows.new_zeros(shape)
        if stop > start:
            whole.narrow(dim, start, stop - start).copy_(rows)
        torch.distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        dim, start, stop = ctx.place
        whole = gradients[0].clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(whole)
        if stop == start:
            return whole.new_zeros(ctx.shape), None, None, None, None
        return whole.narrow(dim, start, stop - start).contiguous(), None, None, None, None
