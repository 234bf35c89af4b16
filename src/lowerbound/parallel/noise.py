"""The noise of a whole batch, of which a shard keeps its own rows.

Every piece of a batch draws the noise of all of it from the same generator state and takes its own
rows. This happens in one place, a mode through which the random functions of torch pass, so that no
part knows of it. What a random function is given may decide how many numbers it takes from the
generator (``torch.poisson``, gamma): there each piece draws by a generator of its own, so that the
draws are others than one process's, of the same distribution. Batch normalisation goes the same
way.

Whose numbers are drawn is told by their shape alone, so that noise of something else, such as the
weights of a layer, might be taken for that of examples. :func:`check_noise` finds it before
training.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # as everywhere
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lowerbound.parallel.shards import Shard, active, all_reduce_sum, entered
from lowerbound.utils.seeding import seeded


def at_work(shard: Shard, samples: int = 1) -> AbstractContextManager[None]:
    """Run a block on some rows of a batch: noise and statistics of the batch are those of the
    whole.

    Args:
        shard: the rows; where they are all, nothing passes through a mode.
        samples: K, by which the dimension of a draw's examples is told from that of its samples.
    """
    return nullcontext() if shard.is_whole else _on_rows(shard, samples)


@contextmanager
def _on_rows(shard: Shard, samples: int) -> Iterator[None]:
    with entered(shard), _Noise(shard, samples):
        yield


@dataclass(frozen=True)
class _Place:
    """Where the examples are in a shape: along a dimension that has ``outer`` times b times
    ``inner`` entries.
    """

    dim: int
    outer: int
    inner: int


class _Noise(TorchFunctionMode):
    """Draws for the whole batch, of which the rows at hand are kept."""

    def __init__(self, shard: Shard, samples: int) -> None:
        super().__init__()
        self.shard, self.samples = shard, samples
        self.count = shard.stop - shard.start

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        draw = DRAWS.get(func)
        # a generator that is given belongs to who gave it
        if draw is None or active() is None or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        return draw(self, func, args, kwargs)

    def place(self, shape: tuple[int, ...]) -> _Place | None:
        """Where the examples are in a draw (K, B, ...), (B, ...) or (K B, ...); None where there
        are none.
        """
        b = self.count
        if (
            len(shape) > 1
            and shape[1] == b
            and shape[0] in ({self.samples} if shape[0] == b else {shape[0]})
        ):
            return _Place(1, 1, 1)
        if shape and shape[0] and shape[0] % b == 0:
            return _Place(0, shape[0] // b, 1)
        if len(shape) > 1 and shape[1] and shape[1] % b == 0:
            return _Place(1, shape[1] // b, 1)
        return None

    def whole(self, shape: tuple[int, ...], place: _Place) -> tuple[int, ...]:
        """The shape for the whole batch."""
        return tuple(
            place.outer * self.shard.size * place.inner if i == place.dim else n
            for i, n in enumerate(shape)
        )

    def at_hand(self, whole: Tensor, place: _Place) -> Tensor:
        """The rows at hand."""
        parts = whole.unflatten(place.dim, (place.outer, self.shard.size, place.inner))
        rows: Tensor = parts.narrow(place.dim + 1, self.shard.start, self.count)
        return rows.flatten(place.dim, place.dim + 2)

    def padded(self, rows: Tensor, place: _Place) -> Tensor:
        """What a random function is given, for the whole batch: in the rows that are elsewhere
        stands one of these.
        """
        parts = rows.unflatten(place.dim, (place.outer, self.count, place.inner))
        index = torch.arange(
            -self.shard.start, self.shard.size - self.shard.start, device=rows.device
        )
        index = torch.where((index >= 0) & (index < self.count), index, 0)
        whole: Tensor = parts.index_select(place.dim + 1, index)
        return whole.flatten(place.dim, place.dim + 2)


_Draw: TypeAlias = Callable[[_Noise, Any, tuple[Any, ...], dict[str, Any]], Any]


def _in_place(noise: _Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target, *rest = args
    place = noise.place(target.shape)
    if place is None or any(isinstance(value, Tensor) for value in rest):
        return func(*args, **kwargs)
    whole = torch.empty(noise.whole(target.shape, place), dtype=target.dtype, device=target.device)
    return target.copy_(noise.at_hand(func(whole, *rest, **kwargs), place))


def _alike(noise: _Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    like, *rest = args
    place = noise.place(like.shape)
    if place is None:
        return func(*args, **kwargs)
    whole = torch.empty(noise.whole(like.shape, place), dtype=like.dtype, device=like.device)
    return noise.at_hand(func(whole, *rest, **kwargs), place)


def _of_shape(noise: _Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    rest = list(args)
    kwargs = dict(kwargs)
    if "size" in kwargs:
        shape = kwargs.pop("size")
    elif rest and not isinstance(rest[-1], int):
        shape = rest.pop()
    else:  # rand(2, 3)
        shape, rest = rest, []
    place = noise.place(tuple(shape))
    if place is None:
        return func(*args, **kwargs)
    return noise.at_hand(func(*rest, noise.whole(tuple(shape), place), **kwargs), place)


def _entry_by_entry(noise: _Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Bernoulli draws and the like, which take one number each, whatever they are given."""
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if not tensors:
        return _of_shape(noise, func, args, kwargs)
    place = noise.place(tensors[0].shape)
    if place is None or any(value.shape != tensors[0].shape for value in tensors):
        return func(*args, **kwargs)
    whole = [noise.padded(value, place) if isinstance(value, Tensor) else value for value in args]
    named = {
        key: noise.padded(value, place) if isinstance(value, Tensor) else value
        for key, value in kwargs.items()
    }
    return noise.at_hand(func(*whole, **named), place)


def _chosen(noise: _Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Numbers of categories: (B ..., C) -> (B ..., samples), or of one distribution for all, (1, C)
    -> (1, samples B).
    """
    probs, count, *rest = args
    if probs.ndim == 2 and len(probs) % noise.count == 0:
        place = _Place(0, 1, len(probs) // noise.count)
        return noise.at_hand(func(noise.padded(probs, place), count, *rest, **kwargs), place)
    if count % noise.count:
        return func(*args, **kwargs)
    place = _Place(probs.ndim - 1, count // noise.count, 1)
    return noise.at_hand(func(probs, place.outer * noise.shard.size, *rest, **kwargs), place)


def _left_out(noise: _Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Dropout: (value, p, training, inplace)."""
    arguments = _of_dropout(args, kwargs)
    value = arguments["input"]
    if not arguments["training"] or not len(value) or len(value) % noise.count:
        return func(*args, **kwargs)
    place = _Place(0, len(value) // noise.count, 1)
    ones = torch.ones(noise.whole(value.shape, place), dtype=value.dtype, device=value.device)
    mask = noise.at_hand(func(ones, arguments["p"], True), place)
    return value.mul_(mask) if arguments.get("inplace") else value * mask


def _of_dropout(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a dropout function by name."""
    names = ("input", "p", "training", "inplace")
    return {"p": 0.5, "training": True, **dict(zip(names, args, strict=False)), **kwargs}


def _by_itself(noise: _Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """By a generator of this shard's own, which begins at a number that all draw."""
    seed = int(torch.randint(2**48, ()))
    with seeded(seed + noise.shard.start):
        return func(*args, **kwargs)


def _normalised(noise: _Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Batch normalisation by the mean and variance of the whole batch."""
    names = (
        "input",
        "running_mean",
        "running_var",
        "weight",
        "bias",
        "training",
        "momentum",
        "eps",
    )
    arguments: dict[str, Any] = {
        "weight": None,
        "bias": None,
        "training": False,
        "momentum": 0.1,
        "eps": 1e-5,
    }
    arguments |= dict(zip(names, args, strict=False)) | kwargs
    if not arguments["training"]:
        return func(*args, **kwargs)
    value = arguments["input"]
    each = [i for i in range(value.ndim) if i != 1]
    exact = value if value.dtype == torch.float64 else value.float()
    n = all_reduce_sum(exact.new_tensor(float(value.numel() // value.shape[1])))
    mean = all_reduce_sum(exact.sum(each)) / n
    shape = [-1 if i == 1 else 1 for i in range(value.ndim)]
    centred = exact - mean.reshape(shape)
    variance = all_reduce_sum(centred.square().sum(each)) / n
    running_mean, running_var = arguments["running_mean"], arguments["running_var"]
    if running_mean is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean), arguments["momentum"])
            unbiased = (variance * n / (n - 1)).to(running_var)
            running_var.lerp_(unbiased, arguments["momentum"])
    result = centred * (variance + arguments["eps"]).rsqrt().reshape(shape)
    for name, combine in (("weight", torch.mul), ("bias", torch.add)):
        if arguments[name] is not None:
            result = combine(result, arguments[name].reshape(shape))
    return result.to(value.dtype)


DRAWS: dict[Any, _Draw] = {
    **dict.fromkeys(
        (
            Tensor.normal_,
            Tensor.uniform_,
            Tensor.exponential_,
            Tensor.cauchy_,
            Tensor.log_normal_,
            Tensor.geometric_,
            Tensor.random_,
            Tensor.bernoulli_,
        ),
        _in_place,
    ),
    **dict.fromkeys((torch.rand_like, torch.randn_like, torch.randint_like), _alike),
    **dict.fromkeys((torch.rand, torch.randn, torch.randint), _of_shape),
    **dict.fromkeys((torch.bernoulli, Tensor.bernoulli, torch.normal), _entry_by_entry),
    **dict.fromkeys((torch.multinomial, Tensor.multinomial), _chosen),
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d), _left_out),
    **dict.fromkeys(
        (
            torch.poisson,
            torch.binomial,
            torch._standard_gamma,
            torch._sample_dirichlet,
            F.alpha_dropout,
            F.feature_alpha_dropout,
            F.gumbel_softmax,
        ),
        _by_itself,
    ),
    F.batch_norm: _normalised,
}
"""What a random function does in a shard."""


class _Shapes(TorchFunctionMode):
    """Notes what is drawn for the examples at hand: who draws, and of which shape."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[tuple[str, tuple[int, ...]]] = []

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        draw = DRAWS.get(func)
        is_draw = draw is not None and draw is not _normalised
        if draw is _left_out:
            is_draw = bool(_of_dropout(args, kwargs)["training"])
        # under replicated() nobody is at hand, and what is drawn is drawn alike everywhere
        if is_draw and active() is not None and kwargs.get("generator") is None:
            self.drawn.append((_drawing(), tuple(result.shape)))
        return result


def _drawing() -> str:
    """The class of the module whose code is running."""
    frame = inspect.currentframe()
    while frame is not None:
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module):
            return type(module).__name__
        frame = frame.f_back
    return "a part"


def check_noise(run: Callable[[int], object]) -> None:
    """Refuse what draws numbers that are not those of examples: other pieces of a batch would draw
    others.

    What is drawn for examples grows with their number, so that two examples and three tell the one
    from the other.

    Args:
        run: works on some examples, whose number it is given.

    Raises:
        ValueError: who draws, of which shape, and how to do it alike everywhere.

    Example:
        >>> check_noise(lambda n: torch.randn(n, 4))
        >>> check_noise(lambda n: torch.randn(6))
        Traceback (most recent call last):
        ValueError: a part draws random numbers of the shape (6,) whatever the number of examples, \
and each piece of a batch would draw others; draw them under \
lowerbound.parallel.shards.replicated(), or train with devices 1 and accumulate 1
    """
    drawn = []
    for n in (2, 3):
        with seeded(0), entered(Shard(0, n, n)), _Shapes() as shapes:
            run(n)
        drawn.append(shapes.drawn)
    # where one example more makes more draws, it is found in training (check_in_step)
    for (drawing, shape), (_, larger) in zip(*drawn, strict=False):
        if shape and shape == larger and len(drawn[0]) == len(drawn[1]):
            raise ValueError(
                f"{drawing} draws random numbers of the shape {shape} whatever the number of "
                "examples, and each piece of a batch would draw others; draw them under "
                "lowerbound.parallel.shards.replicated(), or train with devices 1 and accumulate 1"
            )
