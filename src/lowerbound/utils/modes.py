"""Modes: of modules, and torch's own, which hold for everything that a program does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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


@contextmanager
def by_default() -> Iterator[None]:
    """Run a block, or a function that this decorates, as if nobody had changed torch's modes: a
    default type or device, ``no_grad``, ``inference_mode``, ``autocast``.

    Such a mode is set for a program's own code. Left on around a training it would round its
    numbers, place a part of them elsewhere, or take its gradients away. What is not set costs
    nothing.

    Example:
        >>> with torch.no_grad(), by_default():
        ...     torch.is_grad_enabled()
        True
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            stack.enter_context(torch.enable_grad())
        for kind in {"cpu", torch.get_default_device().type, *["cuda"] * torch.cuda.is_available()}:
            if kind != "meta" and torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device() != torch.device("cpu"):
            stack.enter_context(torch.device("cpu"))
        if torch.get_default_dtype() != torch.float32:
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float32)
        yield


def check_has_values(module: nn.Module) -> None:
    """Refuse a model that was built where nothing has values, or no gradient.

    Raises:
        ValueError: how it was built, and what would work.

    Example:
        >>> check_has_values(nn.Linear(2, 2, device="meta"))
        Traceback (most recent call last):
        ...
        ValueError: the Linear was built on the device meta, where tensors have no values; ...
    """
    for tensor in module.state_dict(keep_vars=True).values():
        if tensor.is_meta:
            raise ValueError(
                f"the {type(module).__name__} was built on the device meta, where tensors have no "
                "values; build it on a processor, or a GPU"
            )
        if tensor.is_inference():
            raise ValueError(
                f"the {type(module).__name__} was built in torch.inference_mode, so that it can "
                "have no gradient; build it outside"
            )
