"""The units of the data: an affine map that lets networks work on values of the order of one,
whatever x is measured in.

A network started at random answers to inputs of a hundred with a log-variance of sixty, and exp(30)
is the end of training. So a posterior's network is shown (x - loc) / scale, and a normal
likelihood's network says how many scales the mean lies from loc. Both are fixed from the training
data before the first step and saved with the weights. x itself is not touched: every density, bound
and sample is in the units of the data.

A time in seconds is about 1.7e9, where the steps of float32 are 128 s. Data that float32 cannot
hold come in float64 (:mod:`~lowerbound.data.precision`), and loc and scale are then float64 too,
here and in the file of weights. (x - loc) / scale is worked out in float64 and is of the order of
one, so that networks, and the densities of normal likelihoods, get it in their own precision; the
density of x owes the Jacobian, sum log scale, which is subtracted.

    log p(x|z) = log p_u((x - loc) / scale | z) - sum log scale

Data in [0, 1] that float32 can hold are left as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.shapes import Shape

HALF_STEP = 2**-24  # of float32: what rounding changes a number by, relative to it, at most
# Half a step of float32, relative to the spread. A density whose deviation is a hundredth of the
# spread is then wrong by thousandths of a nat.
TOO_COARSE = 1e-5


class Standardizer(nn.Module):
    """An affine map of events of shape X, the identity until it is set.

    Args:
        x_shape: X.

    Attributes:
        entries: which entries of the flattened examples these are the units of, for a part of a few
            columns; None for all.
        is_fitted: whether they have been set. While they are not, the map is left out: on a CPU
            (x - 0) / 1 is two passes.
        is_double: whether loc and scale are float64, because float32 cannot hold the data.

    Example:
        >>> standardizer = Standardizer((2,))
        >>> standardizer.learn(torch.tensor([[0.0, 100.0], [2.0, 300.0]]))
        >>> standardizer.standardize(torch.tensor([1.0, 200.0]))
        tensor([0., 0.])
        >>> standardizer.unstandardize(torch.tensor([1.0, 1.0])).round()
        tensor([  2., 341.])
    """

    loc: Tensor
    scale: Tensor
    like: Tensor

    def __init__(self, x_shape: Shape) -> None:
        super().__init__()
        self.entries: Tensor | None = None
        self.register_buffer("loc", torch.zeros(x_shape))
        self.register_buffer("scale", torch.ones(x_shape))
        # what stands for the precision and the device of the networks, and follows them
        self.register_buffer("like", torch.zeros(()), persistent=False)
        self.is_fitted = False
        self.is_double = False
        # torch says nothing of it
        self.register_load_state_dict_post_hook(_look)  # type: ignore[no-untyped-call]

    @property
    def overall(self) -> Tensor:
        """One scale for all entries, the root mean square of theirs: where one scale is to be
        shared.
        """
        return self.scale.square().mean().sqrt().to(self.like.dtype)

    @property
    def log_scale(self) -> Tensor:
        """Log scale of each entry, X, in the precision of the networks."""
        return self.scale.log().to(self.like.dtype)

    def log_jacobian(self, mask: Tensor | None = None) -> Tensor:
        """Log |dx/du|, nats, of the standardised values u: the sum of log scale, (), or that of
        what is observed of each example, (B,).

        Args:
            mask: 1 where observed, broadcastable to (B, *X).
        """
        if mask is None:
            return self.log_scale.sum()
        observed = torch.where(mask.to(torch.bool), self.log_scale, 0.0)
        return observed.flatten(1).sum(1) if self.loc.ndim else observed

    def learn(
        self, x: Tensor, mask: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Set mean and standard deviation of each entry from examples (n, *X); an entry that never
        varies keeps scale 1.

        Args:
            x: examples, (n, *X).
            mask: 1 where observed, (n, *X); what is missing counts for neither.
            dtype: of the data, where x is but a :func:`summary` of them; by default that of x. If
                it is float64, so become loc and scale.

        Raises:
            ValueError: float64 on a device that has none.
        """
        if mask is None:
            spread, centre = x.double().std(0), x.double().mean(0)
        else:
            observed = mask.to(torch.bool)
            count = observed.sum(0)
            values = torch.where(observed, x.double(), 0.0)
            centre = values.sum(0) / count.clamp(min=1)
            squares = torch.where(observed, values - centre, 0.0).square().sum(0)
            spread = (squares / (count - 1).clamp(min=1)).sqrt()
        if (dtype or x.dtype) == torch.float64:
            self._become_double()
        self.loc.copy_(centre)
        self.scale.copy_(torch.where(spread > 0, spread, 1.0))
        _look(self)

    def _become_double(self) -> None:
        """Hold loc and scale in float64 from here on."""
        _check_has_double(self.like.device)
        self.loc, self.scale, self.is_double = self.loc.double(), self.scale.double(), True

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Standardizer:
        """As any module's, but that float64 stays float64: ``.to(dtype)`` is meant for the
        networks.
        """
        if not self.is_double:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # of torch
            return self
        self.like = fn(self.like)
        _check_has_double(self.like.device)
        self.loc, self.scale = self.loc.to(self.like.device), self.scale.to(self.like.device)
        return self

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Tensor], prefix: str, *rest: Any
    ) -> None:
        """Take float64 as float64."""
        saved = state_dict.get(f"{prefix}loc")
        if saved is not None and saved.dtype == torch.float64 and self.loc.dtype != torch.float64:
            self._become_double()
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def standardize(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(..., *X) in units of the data -> of the order of one, in the precision of the networks;
        what the mask says is missing -> 0, the mean.

        Zero is what Mattei and Frellsen (2019, arXiv 1812.02633) and Nazabal et al. (2020, arXiv
        1807.03653) show the encoder in place of a missing entry. Data in [0, 1] have no units here,
        and 0 is then the value 0.

        Raises:
            ValueError: x does not end in X.
        """
        if x.shape[x.ndim - self.loc.ndim :] != self.loc.shape:
            raise ValueError(
                f"x of shape {tuple(x.shape)} does not end in the event shape "
                f"{tuple(self.loc.shape)}"
            )
        value = (x - self.loc) / self.scale if self.is_fitted else x
        value = value.to(self.like.dtype)
        if mask is None:
            return value
        return torch.where(mask.to(torch.bool), value, torch.zeros_like(value))

    def unstandardize(self, value: Tensor) -> Tensor:
        """The way back, in the precision of loc and scale."""
        return self.loc + self.scale * value if self.is_fitted else value


def _look(standardizer: Standardizer, *_: object) -> None:
    """Find out whether units have been set, at the only two places where that changes: no step
    waits for the answer.
    """
    standardizer.is_fitted = bool((standardizer.loc != 0).any() or (standardizer.scale != 1).any())


def _check_has_double(device: torch.device) -> None:
    if device.type == "mps":
        raise ValueError(
            "these data need float64, because float32 would change them, and mps has none; use "
            "device 'cpu'"
        )


def is_double(model: nn.Module) -> bool:
    """Whether the data of a model are float64, because float32 cannot hold them."""
    return any(isinstance(module, Standardizer) and module.is_double for module in model.modules())


def far_from_zero(model: nn.Module) -> bool:
    """Whether float32 would change the data of a model by more than a hundred-thousandth of their
    spread, so that they have to be given in float64.
    """
    return any(
        isinstance(module, Standardizer)
        and module.is_double
        and module.like.dtype != torch.float64
        and bool((module.loc.abs() * HALF_STEP > TOO_COARSE * module.scale).any())
        for module in model.modules()
    )


def entries_of(value: Tensor, entries: Tensor | None, shape: Shape) -> Tensor:
    """Some entries of flattened examples, (n, *X) -> (n, *shape); all of them where none are
    named.
    """
    return (
        value
        if entries is None
        else value.reshape(len(value), -1)[:, entries].reshape(len(value), *shape)
    )


def summary(batches: Iterable[Tensor]) -> Tensor:
    """Two examples that have mean and standard deviation of all, float64 (2, *X): what units are
    learnt from, in short.

    Pieces are joined by the update of Chan, Golub and LeVeque (1983), which loses no digits where a
    mean is far from zero.

    Args:
        batches: all examples, in pieces (b, *X).

    Example:
        >>> x = torch.arange(8.0).reshape(4, 2)
        >>> two = summary(x.split(3))
        >>> two.mean(0)
        tensor([3., 4.], dtype=torch.float64)
        >>> two.std(0).float(), x.std(0)
        (tensor([2.5820, 2.5820]), tensor([2.5820, 2.5820]))
    """
    n, centre, squares = 0, torch.zeros(()), torch.zeros(())
    for piece in batches:
        x = piece.double()
        mean, m = x.mean(0), len(x)
        delta = mean - centre
        squares = squares + (x - mean).square().sum(0) + delta.square() * (n * m / (n + m))
        centre = centre + delta * (m / (n + m))
        n += m
    half = (squares / max(1, n - 1) / 2).sqrt()
    return torch.stack([centre - half, centre + half])


def learn_units(
    model: nn.Module, x: Tensor, mask: Tensor | None = None, dtype: torch.dtype | None = None
) -> None:
    """Set every unit of a model that has not been set before, from the observed entries of training
    examples (n, *X) of a type (:meth:`Standardizer.learn`).
    """
    for module in model.modules():
        if isinstance(module, Standardizer) and not module.is_fitted:
            columns, shape = module.entries, module.loc.shape
            seen = None if mask is None else entries_of(mask, columns, shape)
            module.learn(entries_of(x, columns, shape), seen, dtype)


def refilled(x: Tensor, mask: Tensor | None) -> Tensor:
    """Examples (n, *X) in which each missing entry holds an observed value of the same entry: their
    quantiles.

    Means, spreads and supports of every entry stay what they are among the observed, whatever
    statistic a part takes. An entry that is never observed is zero. It is no imputation: that of
    the model comes from what it has learned.

    Example:
        >>> x, mask = torch.tensor([[1.0], [9.0], [3.0], [9.0]]), torch.tensor([[1], [0], [1], [0]])
        >>> refilled(x, mask).flatten()
        tensor([1., 1., 3., 3.])
    """
    if mask is None:
        return x
    observed = mask.to(torch.bool).expand_as(x).reshape(len(x), -1)
    columns = x.reshape(len(x), -1).clone()
    for column, known in zip(columns.unbind(1), observed.unbind(1), strict=True):
        values, places = column[known].sort().values, (~known).nonzero().flatten()
        n, m = len(values), len(places)
        column[places] = (
            values[((torch.arange(m) + 0.5) * n / m).long()] if n else values.new_zeros(())
        )
    return columns.reshape(x.shape)
