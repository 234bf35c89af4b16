"""Several processes that work on one thing: who they are, and how they agree.

Each of N processes, on one machine or on several, runs the same program on a device of its own and
on its own share of each batch (:mod:`~lowerbound.parallel.shards`). They are started by
``--devices N`` on the command line, or by torchrun, which says in the environment who is who; they
talk through torch.distributed: NCCL between GPUs, gloo between processors.

A program that nobody started several times is alone, and everything here is then what it is for
one.
"""

from __future__ import annotations

import atexit
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

# what gloo and NCCL say where a process at the other end has gone
LOST = (
    r"[Cc]onnection (closed|reset|refused)|[Bb]roken pipe|Timed out waiting|gloo|NCCL|Socket"
    r"|failed to recv"
)

ENDED = "another process of this run has ended, so this one has stopped too"
MEETING = 0.25  # seconds between two meetings


@dataclass(frozen=True)
class Processes:
    """The processes that work together, seen from one of them.

    Args:
        rank: the number of this one, from 0.
        size: how many there are.
        local_rank: the number of this one on its machine, which is that of its GPU.
        local_size: how many there are on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def agree(self, *votes: bool) -> tuple[bool, ...]:
        """For each question, whether any process says yes; all must ask at the same place."""
        if self.size == 1:
            return votes
        answers = torch.tensor(votes, dtype=torch.uint8)
        torch.distributed.all_reduce(answers, torch.distributed.ReduceOp.MAX)
        return tuple(bool(answer) for answer in answers)

    def broadcast(self, say: Callable[[], T]) -> T:
        """What the first process finds, in all of them.

        Raises:
            ValueError: it finds that something is wrong; all raise the same.
        """
        if self.size == 1:
            return say()
        answer: list[Any] = [None, None]
        if self.is_first:
            try:
                answer[0] = say()
            except (ValueError, TypeError, OSError) as error:
                answer[1] = error
        torch.distributed.broadcast_object_list(answer, 0, device=torch.device("cpu"))
        if answer[1] is not None:
            raise answer[1]
        return answer[0]  # type: ignore[no-any-return]  # it came through a list of anything

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the processes."""
        if self.size > 1:
            for tensor in tensors:
                torch.distributed.all_reduce(tensor)

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by that of the first process."""
        if self.size > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, 0)

    @contextmanager
    def one_goes_ahead(self) -> Iterator[None]:
        """Run a block on one process of each machine, and then on the others: what it fetches or
        decodes, they find.
        """
        if self.size > 1 and self.local_rank:
            self.agree(True)
        try:
            yield
        finally:
            if self.size > 1 and not self.local_rank:
                self.agree(True)

    def place(self, device: torch.device) -> torch.device:
        """Where this process works, of a kind of which each has its own."""
        return (
            torch.device("cuda", self.local_rank)
            if device.type == "cuda" and self.size > 1
            else device
        )

    def to_cpu(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors that others are to see: on no device that they do not have."""
        if self.size == 1:
            return tensors
        return {name: value.cpu() for name, value in tensors.items()}

    def gather(self, value: T) -> list[T]:
        """What each process has, in the order of their numbers, in all of them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Say in one line that another process has gone, where torch says it in many.

        Raises:
            ConnectionError: it has.
        """
        try:
            yield
        except RuntimeError as error:
            if self.size > 1 and is_lost(error):
                raise ConnectionError(ENDED) from error
            raise


class Votes:
    """Questions that are asked after each step, and answered a few times a second: processes that
    meet cost time.

    One process answers at once.
    """

    def __init__(self, world: Processes) -> None:
        self.world = world
        self.steps, self.due, self.met = 0, 1, time.monotonic()

    def ask(self, *votes: bool) -> tuple[bool, ...]:
        """As :meth:`Processes.agree`; no to all where the processes do not meet after this step."""
        if self.world.size == 1:
            return votes
        self.steps += 1
        if self.steps < self.due:
            return (False,) * len(votes)
        pace = max(1e-6, (time.monotonic() - self.met) / self.steps)
        answers = torch.tensor([*votes, max(1, int(MEETING / pace))])
        torch.distributed.all_reduce(answers, torch.distributed.ReduceOp.MAX)
        self.steps, self.due, self.met = 0, int(answers[-1]), time.monotonic()
        return tuple(bool(answer) for answer in answers[:-1])


ALONE = Processes()


def is_lost(error: RuntimeError) -> bool:
    """Whether torch says by this error that the process at the other end has gone."""
    return re.search(LOST, str(error)) is not None


def launched() -> Processes:
    """The processes that were started together, as the environment says it (torchrun's
    variables).
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if not all(os.environ.get(name, "").isdecimal() for name in names):
        return ALONE
    return Processes(*(int(os.environ[name]) for name in names))


def together() -> Processes:
    """The processes that have joined, or this one alone."""
    is_joined = torch.distributed.is_available() and torch.distributed.is_initialized()
    return launched() if is_joined else ALONE


def join() -> Processes:
    """Meet the other processes, where this one was started as one of several; all must come, and
    may come again.
    """
    world = launched()
    if world.size == 1:
        return ALONE
    if not torch.distributed.is_initialized():
        has_gpu = torch.cuda.is_available() and torch.distributed.is_nccl_available()
        if has_gpu and world.local_rank < torch.cuda.device_count():
            torch.cuda.set_device(world.local_rank)
        # gloo also beside GPUs: what is agreed upon between steps should not wait for them
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if has_gpu else "gloo")
        atexit.register(torch.distributed.destroy_process_group)
    return world


def check_devices(
    devices: int | None, device: torch.device, world: Processes, may_start: bool = False
) -> None:
    """Refuse numbers of devices that cannot be.

    Args:
        devices: on this machine, as asked for; None for as many as processes were started.
        device: of which kind.
        world: the processes that were started.
        may_start: whether more can be started.

    Raises:
        ValueError: what is wrong, and what would work.
    """
    if devices is not None and (
        not isinstance(devices, int) or isinstance(devices, bool) or devices < 1
    ):
        raise ValueError(f"devices is {devices!r}: it must be a whole number, at least 1")
    count = devices or world.local_size
    if count == 1 and world.size == 1:
        return
    if device.type == "mps":
        raise ValueError(
            f"devices is {count}, and there is one mps device; use devices 1, or device 'cpu'"
        )
    if device.index:
        raise ValueError(
            f"devices is {count}, each a process with a GPU of its own, and device {str(device)!r} "
            "is one; use device 'cuda'"
        )
    there = torch.cuda.device_count() if device.type == "cuda" else os.cpu_count() or 1
    what = (
        "GPUs"
        if device.type == "cuda"
        else "processor cores, and with device 'cpu' each process needs one"
    )
    if count > there:
        raise ValueError(
            f"devices is {count}, and this machine has {there} {what}; use at most {there}"
        )
    if world.size > 1 and devices not in (None, world.local_size):
        raise ValueError(
            f"devices is {devices}, and {world.local_size} processes were started on this machine; "
            f"leave devices out, or start {devices} (torchrun --nproc-per-node {devices})"
        )
    if world.size == 1 and not may_start:
        raise ValueError(
            f"devices is {devices}, and a Python program is one process: start it as several by "
            f"torchrun --nproc-per-node {devices} PROGRAM.py, or train from the command line "
            f"(lowerbound train --devices {devices})"
        )


def leave(code: int) -> NoReturn:
    """End this process; where it has joined others, at once.

    A thread of torch.distributed that lets go of a tensor while Python takes itself down aborts the
    process, now and then.
    """
    if together().size > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
