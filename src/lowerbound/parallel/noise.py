"""The noise of a whole batch, of which a shard keeps its own rows.

Every piece of a batch draws the noise of all of it from the same generator state and takes its own
rows. This happens in one place, a mode through which the random functions of torch pass, so that no
part knows of it. What a random function is given may decide how many numbers it takes from the
generator (``torch.poisson``, gamma): there each piece draws by a generator of its own, so that the
draws are others than one process's, of the same distribution. Batch normalisation goes the same
way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # as everywhere
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lowerbound.parallel.shards import Shard, active, all_reduce_sum, entered
from lowerbound.utils.seeding import random_state, set_random_state


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

    def own(self, whole: Tensor, place: _Place) -> Tensor:
        """The rows at hand."""
        parts = whole.unflatten(place.dim, (place.outer, self.shard.size, place.inner))
        rows: Tensor = parts.narrow(place.dim + 1, self.shard.start, self.count)
        return rows.flatten(place.dim, place.dim + 2)

    def padded(self, own: Tensor, place: _Place) -> Tensor:
        """What a random function is given, for the whole batch: in the rows that are elsewhere
        stands one of these.
        """
        parts = own.unflatten(place.dim, (place.outer, self.count, place.inner))
        rows = torch.arange(
            -self.shard.start, self.shard.size - self.shard.start, device=own.device
        )
        rows = torch.where((rows >= 0) & (rows < self.count), rows, 0)
        whole: Tensor = parts.index_select(place.dim + 1, rows)
        return whole.flatten(place.dim, place.dim + 2)


_Draw: TypeAlias = Callable[[_Noise, Any, tuple[Any, ...], dict[str, Any]], Any]


def _in_place(noise: _Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    own, *rest = args
    place = noise.place(own.shape)
    if place is None or any(isinstance(value, Tensor) for value in rest):
        return func(*args, **kwargs)
    whole = torch.empty(noise.whole(own.shape, place), dtype=own.dtype, device=own.device)
    return own.copy_(noise.own(func(whole, *rest, **kwargs), place))


def _alike(noise: _Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    own, *rest = args
    place = noise.place(own.shape)
    if place is None:
        return func(*args, **kwargs)
    whole = torch.empty(noise.whole(own.shape, place), dtype=own.dtype, device=own.device)
    return noise.own(func(whole, *rest, **kwargs), place)


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
    return noise.own(func(*rest, noise.whole(tuple(shape), place), **kwargs), place)


def _given(noise: _Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
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
    return noise.own(func(*whole, **named), place)


def _chosen(noise: _Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Numbers of categories: (B ..., C) -> (B ..., samples), or of one distribution for all, (1, C)
    -> (1, samples B).
    """
    probs, count, *rest = args
    if probs.ndim == 2 and len(probs) % noise.count == 0:
        place = _Place(0, 1, len(probs) // noise.count)
        return noise.own(func(noise.padded(probs, place), count, *rest, **kwargs), place)
    if count % noise.count:
        return func(*args, **kwargs)
    place = _Place(probs.ndim - 1, count // noise.count, 1)
    return noise.own(func(probs, place.outer * noise.shard.size, *rest, **kwargs), place)


def _left_out(noise: _Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Dropout: (value, p, training, inplace)."""
    names = ("input", "p", "training", "inplace")
    given: dict[str, Any] = {
        "p": 0.5,
        "training": True,
        **dict(zip(names, args, strict=False)),
        **kwargs,
    }
    value = given["input"]
    if not given["training"] or not len(value) or len(value) % noise.count:
        return func(*args, **kwargs)
    place = _Place(0, len(value) // noise.count, 1)
    ones = torch.ones(noise.whole(value.shape, place), dtype=value.dtype, device=value.device)
    kept = noise.own(func(ones, given["p"], True), place)
    return value.mul_(kept) if given.get("inplace") else value * kept


def _by_itself(noise: _Noise, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """By a generator of this shard's own, which begins at a number that all draw."""
    seed = int(torch.randint(2**48, ()))
    after = random_state()
    torch.manual_seed(seed + noise.shard.start)
    try:
        return func(*args, **kwargs)
    finally:
        set_random_state(after)


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
    given: dict[str, Any] = {
        "weight": None,
        "bias": None,
        "training": False,
        "momentum": 0.1,
        "eps": 1e-5,
    }
    given |= dict(zip(names, args, strict=False)) | kwargs
    if not given["training"]:
        return func(*args, **kwargs)
    value = given["input"]
    each = [i for i in range(value.ndim) if i != 1]
    exact = value if value.dtype == torch.float64 else value.float()
    n = all_reduce_sum(exact.new_tensor(float(value.numel() // value.shape[1])))
    mean = all_reduce_sum(exact.sum(each)) / n
    shape = [-1 if i == 1 else 1 for i in range(value.ndim)]
    centred = exact - mean.reshape(shape)
    variance = all_reduce_sum(centred.square().sum(each)) / n
    if given["running_mean"] is not None:
        with torch.no_grad():
            given["running_mean"].lerp_(mean.to(given["running_mean"]), given["momentum"])
            given["running_var"].lerp_(
                (variance * n / (n - 1)).to(given["running_var"]), given["momentum"]
            )
    result = centred * (variance + given["eps"]).rsqrt().reshape(shape)
    for name, combine in (("weight", torch.mul), ("bias", torch.add)):
        if given[name] is not None:
            result = combine(result, given[name].reshape(shape))
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
    **dict.fromkeys((torch.bernoulli, Tensor.bernoulli, torch.normal), _given),
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
