"""The most memory that a call holds at once beyond what the process held before it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measured(call: Callable[[], float]) -> dict[str, float | None]:
    """The value of a call, and bytes; None where the system does not tell (only Linux does).

    The kernel's own peak is set back before the call, so nothing is missed between two looks. The
    first call in a process also pays for what stays, such as workspaces of the matrix products.
    """
    gc.collect()
    before = _held("VmRSS")
    if before is not None:
        CLEAR.write_text("5")
    value = call()
    peak = _held("VmHWM")
    return {"value": value, "bytes": None if before is None or peak is None else peak - before}


def _held(name: str) -> int | None:
    """Of /proc/self/status, in bytes."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    return next(
        (1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None
    )
