"""Training and evaluation mode of modules."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class _Blocks:
    """The blocks that a module is evaluated in at a time, by one thread or several."""

    count: int
    in_training: list[nn.Module]
    """What they have found in training mode, the first of them."""


_blocks: dict[int, _Blocks] = {}
_lock = threading.Lock()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Run a block in evaluation mode: no dropout, batch statistics fixed; then give every submodule
    its own mode back. Where several threads evaluate one module, the last one does that.

    Example:
        >>> dropout = nn.Dropout()
        >>> with evaluating(dropout):
        ...     print(dropout.training)
        False
        >>> dropout.training
        True
    """
    if torch.compiler.is_compiling():  # nothing else compiles meanwhile, and a graph knows no lock
        in_training = [part for part in module.modules() if part.training]
        module.eval()
        try:
            yield
        finally:
            _train(in_training)
        return
    with _lock:
        in_training = [part for part in module.modules() if part.training]
        module.eval()
        if (blocks := _blocks.get(id(module))) is None:
            blocks = _blocks[id(module)] = _Blocks(0, in_training)
            in_training = []  # the last block gives them back
        blocks.count += 1
    try:
        yield
    finally:
        with _lock:
            blocks.count -= 1
            if blocks.count == 0:
                del _blocks[id(module)]
                in_training += blocks.in_training
            _train(in_training)


def _train(parts: list[nn.Module]) -> None:
    for part in parts:
        part.training = True
