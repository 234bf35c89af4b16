"""Streams: the generators of one call, from which all is drawn that torch draws in a block.

torch has one generator for each device. All threads draw from it, and any of them may seed it. An
operation draws from another one only where it is handed one, and ``rsample``, dropout and most
layers hand on none. So a generator is added further down, where torch's dispatcher passes every
operation, those also of which others are made: in a block of :func:`drawing_from`, an operation
that takes a generator and was handed none is handed that of the block. A generator that is seeded
as the global one is gives the same numbers, bit for bit.

The dispatcher has a key for what others add to it (``DeferredInit``; no part of torch answers to
it). It acts in a thread only where that thread has switched it on. All other operations pass it by
at no cost. A :class:`torch.overrides.TorchFunctionMode` costs 1.6 us for each call of any function
of torch, and does not see what a function calls in turn.

Graphs of ``torch.compile`` have the global generators compiled into them. What runs one that draws
has to draw from those (:func:`drawing_globally`), one call at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

KEY = "DeferredInit"
RANDOM = (
    "_fused_dropout", "_sample_dirichlet", "_standard_gamma", "bernoulli.out", "bernoulli_.Tensor",
    "bernoulli_.float", "binomial", "cauchy_", "exponential_", "geometric_", "log_normal_",
    "multinomial", "multinomial.out", "normal.Tensor_Tensor", "normal.Tensor_Tensor_out",
    "normal.Tensor_float", "normal.Tensor_float_out", "normal.float_Tensor",
    "normal.float_Tensor_out", "normal_", "poisson", "random_", "random_.from", "random_.to",
    "randperm.generator_out", "rrelu_with_noise", "rrelu_with_noise.out", "rrelu_with_noise_",
    "uniform_",
)  # fmt: skip
"""Operations of torch that draw and are made of no others: ``randn``, say, is made of ``normal_``.
"""
GLOBAL_ON_GPU = ("native_dropout",)
"""Operations that draw from a GPU's global generator and take no other."""
CPU = torch.device("cpu")


class Stream:
    """Generators by device, seeded alike; that of a GPU is made where it is first drawn from.

    Args:
        seed: of all of them.

    Example:
        >>> with drawing_from(Stream(0)):
        ...     first, second = torch.randn(2), torch.randn(2)
        >>> with drawing_from(Stream(0)):
        ...     again = torch.randn(2)
        >>> torch.equal(first, again), torch.equal(first, second)
        (True, False)
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.generators: dict[torch.device, torch.Generator] = {}
        self.on(CPU)

    def on(self, device: torch.device) -> torch.Generator:
        """The generator of a device."""
        if device == torch.device("cuda"):  # the one at work
            device = torch.device("cuda", torch.cuda.current_device())
        generator = self.generators.get(device)
        if generator is None:
            generator = torch.Generator(device)
            generator.manual_seed(self.seed)
            self.generators[device] = generator
        return generator

    def state(self) -> dict[str, Tensor]:
        """Where each generator stands, by device: "cpu", "cuda0"."""
        return {
            f"{device.type}{device.index if device.type == 'cuda' else ''}": generator.get_state()
            for device, generator in self.generators.items()
        }

    def set_state(self, state: Mapping[str, Tensor]) -> None:
        """Let the generators stand where they stood; what had not been made then is made again.

        A GPU that is not there is left out, since a state may come from another machine.
        """
        places = {_place(name): value for name, value in state.items()}
        self.generators = {
            device: generator for device, generator in self.generators.items() if device in places
        }
        for device, value in places.items():
            if device.type != "cuda" or device.index < torch.cuda.device_count():
                self.on(device).set_state(value)


def _place(name: str) -> torch.device:
    number = name.removeprefix("cuda")
    return torch.device(name) if number == name else torch.device("cuda", int(number))


class _Thread(threading.local):
    """What a thread draws from."""

    stream: Stream | None = None
    is_global = False
    """Whether it is the one thread that may run graphs that draw."""


_thread = _Thread()


def stream_of_thread() -> Stream | None:
    """What this thread draws from; None for torch's global generators."""
    return _thread.stream


def is_drawing_globally() -> bool:
    """Whether this thread is in a block of :func:`drawing_globally`."""
    return _thread.is_global


@contextmanager
def drawing_from(stream: Stream) -> Iterator[None]:
    """Let this thread draw from a stream in a block, whatever other threads do."""
    _let_random_operations_answer()
    before = _thread.stream
    _thread.stream = stream
    try:
        with torch._C._IncludeDispatchKeyGuard(torch._C._dispatch_key_parse(KEY)):
            yield
    finally:
        _thread.stream = before


_global_draws = threading.Lock()


@contextmanager
def drawing_globally() -> Iterator[None]:
    """Let this thread draw from torch's global generators in a block, as graphs do.

    Raises:
        ValueError: another thread is in such a block.
    """
    if _thread.is_global:
        yield
        return
    if not _global_draws.acquire(blocking=False):
        raise ValueError(
            "another compiled training is at work in this process, and both would draw from the "
            "same random generator: run one after the other, each in a process, or without compile"
        )
    before = _thread.stream
    _thread.stream, _thread.is_global = None, True
    try:
        with torch._C._ExcludeDispatchKeyGuard(_keys()):
            yield
    finally:
        _thread.stream, _thread.is_global = before, False
        _global_draws.release()


_libraries: list[torch.library.Library] = []
"""What has been added to the dispatcher; it ends with these objects."""
_adding = threading.Lock()


def _let_random_operations_answer() -> None:
    """To the dispatcher's key, from the first call on."""
    if _libraries:
        return
    with _adding:
        if not _libraries:
            everything = torch.library.Library("_", "IMPL", KEY)
            everything.fallback(torch.library.fallthrough_kernel)
            ours = torch.library.Library("aten", "IMPL", KEY)
            for name in RANDOM:
                ours.impl(name, _with_generator(_operation(name)))
            for name in GLOBAL_ON_GPU:
                ours.impl(name, _dropout)
            _libraries.extend((everything, ours))


def _operation(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def _keys() -> Any:
    return torch._C.DispatchKeySet(torch._C._dispatch_key_parse(KEY))


def _with_generator(operation: Any) -> Callable[..., Any]:
    """An operation that is handed the generator of the thread's stream, where it has none."""
    arguments = [argument.name for argument in operation._schema.arguments]
    place, keys = arguments.index("generator"), _keys()

    def draw(*args: Any, **kwargs: Any) -> Any:
        has_one = kwargs.get("generator") is not None or (
            len(args) > place and args[place] is not None
        )
        if not has_one:
            args = args[:place]  # None was given by its place, and nothing follows it
            kwargs["generator"] = _stream().on(_device(args, kwargs))
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return operation(*args, **kwargs)

    return draw


def _device(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.device:
    """Where an operation draws; its first tensor may be the one that it fills (``out``)."""
    for value in args:
        if isinstance(value, Tensor):
            return value.device
    filled: Tensor = kwargs["out"]
    return filled.device


def _dropout(value: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    """``native_dropout``, (value, mask), by an operation that takes a generator."""
    if train is False or p == 0:
        return value.clone(), torch.ones_like(value, dtype=torch.bool)
    mask = torch.empty_like(value, dtype=torch.bool).bernoulli_(1 - p)
    return value * mask * (0.0 if p == 1 else 1 / (1 - p)), mask


def _stream() -> Stream:
    """That of the thread.

    Raises:
        ValueError: the backward pass draws. Either it computes again what the forward pass has
            forgotten (``torch.utils.checkpoint``), for which torch puts back its global generators
            and no others; or it runs, on a GPU, in a thread of its own.
    """
    is_recomputed = torch._C._current_graph_task_id() != -1 and torch.is_grad_enabled()
    if _thread.stream is None or is_recomputed:
        raise ValueError(
            "random numbers are drawn in the backward pass, which would be others than those of "
            "the forward pass: leave dropout and other draws out of torch.utils.checkpoint, or "
            "draw them with a generator of your own"
        )
    return _thread.stream
