"""Memory: arrays that cannot fit are refused before they are allocated.

A file may declare any size, in a header or by compressing well; what it asks for is compared with
the machine first. Work that is done in pieces is cut so that each piece fits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor
from torch.distributions import Distribution, Independent

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
