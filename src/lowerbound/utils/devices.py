"""Devices by name: which there are, and which one is meant."""

from __future__ import annotations

import torch


def find_device(name: str) -> torch.device:
    """The device of a name: "auto" takes a GPU if there is one; "cpu", "cuda", "cuda:1", "mps".

    Raises:
        ValueError: it is not there; what there is is named.

    Example:
        >>> find_device("cpu")
        device(type='cpu')
    """
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())] + [
        "mps"
    ] * torch.backends.mps.is_available()
    if name == "auto":
        return torch.device((*gpus, "cpu")[0])
    full = "cuda:0" if name == "cuda" else name
    if full not in (*gpus, "cpu"):
        raise ValueError(
            f"device {name!r} is not there; this machine has {', '.join(('cpu', *gpus))} (or auto)"
        )
    return torch.device(full)
