"""Memory: arrays that cannot fit are refused before they are allocated.

A file may declare any size, in a header or by compressing well; what it asks for is compared with
the machine first. Work that is done in pieces is cut so that each piece fits.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributions import Distribution, Independent
from torch.utils._python_dispatch import TorchDispatchMode

GIB = 2**30


def physical_memory() -> int | None:
    """The machine's memory in bytes, or what a control group leaves of it; None on systems that do
    not tell.

    Example:
        >>> (physical_memory() or GIB) >= GIB / 8
        True
    """
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (
        AttributeError,
        ValueError,
        OSError,
    ):  # Windows has no sysconf, and others may not know these names
        return None
    return min([there, *group_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def group_limits(membership: Path, root: Path) -> list[int]:
    """What control groups (containers, batch systems) allow this process, in bytes, from its own
    group up; Linux only.

    Args:
        membership: the file that says of which groups the process is a member.
        root: where groups are mounted, of version 2, or of version 1 with the controller memory
            below.
    """
    limits = []
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top, name = (
            (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        )
        member = Path(path.lstrip("/"))
        # in a container the path may be that outside it, and the group's own files lie at the root
        for group in dict.fromkeys([member, *member.parents, Path()]):
            try:
                limits.append(int((top / group / name).read_text()))
            except (OSError, ValueError):  # no such group, or "max"
                continue
    return limits


def check_fits(
    needed: int, what: str, remedy: str = "keep fewer examples, or smaller ones"
) -> None:
    """Refuse arrays that are larger than the machine's memory.

    Args:
        needed: bytes.
        what: where the arrays come from.
        remedy: what would need less.

    Raises:
        ValueError: the arrays are larger; the line says both sizes.

    Example:
        >>> check_fits(1000, "a small file")
    """
    there = physical_memory()
    if there is not None and needed > there:
        raise ValueError(
            f"{what} needs {needed / GIB:,.1f} GiB, this machine has {there / GIB:,.1f} GiB of "
            f"memory; {remedy}"
        )


class at_most(TorchDispatchMode):  # noqa: N801  it is a block, as torch.no_grad is
    """A block in which new tensors may hold so many numbers in all: what asks for more is refused
    before it is allocated.

    Args:
        count: how many numbers.
        what: what is too large, for the message.

    Raises:
        ValueError: more are asked for.

    Example:
        >>> import torch
        >>> with at_most(8, "this layer"):
        ...     layer = torch.nn.Linear(10**6, 10**6)
        Traceback (most recent call last):
        ...
        ValueError: this layer: 1,000,000,000,000 numbers are asked for, and at most 8 fit
    """

    def __init__(self, count: int, what: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count, self.what, self.asked = count, what, 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self.asked += _asked(func, args, kwargs or {})
        if self.asked > self.count:
            raise ValueError(
                f"{self.what}: {self.asked:,} numbers are asked for, and at most {self.count:,} fit"
            )
        return func(*args, **(kwargs or {}))


def _asked(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """How many numbers an operation of torch asks for by sizes; 0 where it has only tensors."""
    arguments = dict(zip((each.name for each in func._schema.arguments), args, strict=False))
    arguments |= kwargs
    if "size" in arguments and isinstance(arguments["size"], (list, tuple)):
        is_view = any(isinstance(value, Tensor) for value in args)  # of what is there
        return 0 if is_view else math.prod(arguments["size"])
    if "repeats" in arguments and isinstance(arguments["repeats"], (list, tuple)):
        return int(args[0].numel()) * math.prod(arguments["repeats"])
    if "n" in arguments and isinstance(arguments["n"], int):  # eye, randperm
        return arguments["n"] * int(arguments.get("m", 1))
    ends = [arguments.get(name, 0) for name in ("start", "end")]
    if "end" in arguments and all(isinstance(end, (int, float)) for end in ends):  # arange
        steps = arguments.get("steps", (ends[1] - ends[0]) / (arguments.get("step", 1) or 1))
        return math.ceil(steps) if math.isfinite(steps) else 0
    return 0


def values_held(distribution: Distribution) -> int:
    """How many numbers a distribution holds, which is what makes one over large events expensive.

    Example:
        >>> import torch
        >>> from torch.distributions import Bernoulli, Normal
        >>> values_held(Independent(Normal(torch.zeros(3, 4), torch.ones(3, 4)), 1))
        24
        >>> values_held(Bernoulli(logits=torch.zeros(3, 4)))  # by two names
        12
    """
    return sum({id(tensor): tensor.numel() for tensor in _tensors(distribution)}.values())


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Independent):
        yield from _tensors(value.base_dist)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Distribution):
        yield from _tensors(tuple(vars(value).values()))
