"""The data-set card: arrays in named splits, and everything that has to be known to repeat a result
on them.

Training sees :meth:`Dataset.present`, which draws random transforms anew; everything that measures
sees :meth:`Dataset.examples`, which fixes them by the recorded seed and leaves out those for
training only, or the same in pieces, :meth:`Dataset.batches`. The values of a split are a tensor,
or stay in their file (:mod:`~lowerbound.data.mapped`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions.constraints import Constraint

from lowerbound.data.mapped import MappedArray, MappedRows, windowed
from lowerbound.data.transforms import Dequantise, Transform
from lowerbound.roles import Context
from lowerbound.shapes import Shape, numel
from lowerbound.supports import UNIT, Columns, contains, describe
from lowerbound.utils.memory import check_fits
from lowerbound.utils.messages import printable, unknown

# bytes of float32 that one piece of a split takes where nobody says how many examples: 32 MiB
PIECE = 2**25
# bytes of float32 in an excerpt of a split in a file, and how many examples at least
EXCERPT, LEAST = 2**28, 1000


@dataclass(frozen=True, repr=False)
class Split:
    """One part of a data set, as stored.

    Args:
        values: (n, *X), in the stored type (uint8 for grey levels); a tensor, or rows of a mapped
            file.
        y: labels, (n,): of classes their numbers 0..C-1, of anything else real numbers; or None.
        mask: True where an entry is observed, (n, *X); None where all are. Missing entries are
            stored as zero.
        factors: what each example was made from, (n, F), or None.
    """

    values: Tensor | MappedRows
    y: Tensor | None = None
    mask: Tensor | None = None
    factors: Tensor | None = None

    def __post_init__(self) -> None:
        if self.mask is not None and self.mask.shape != self.values.shape:
            raise ValueError(
                f"a mask of shape {tuple(self.mask.shape)} does not fit values of shape "
                f"{tuple(self.values.shape)}"
            )
        if self.y is not None and len(self.y) != len(self.values):
            raise ValueError(f"there are {len(self.values)} examples but {len(self.y)} labels")
        if self.factors is not None and self.factors.shape[:1] != (len(self.values),):
            raise ValueError(
                f"there are {len(self.values)} examples but factors of shape "
                f"{tuple(self.factors.shape)}"
            )

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"<Split of {len(self):,}{'' if self.y is None else ', labelled'}>"


@dataclass(frozen=True, repr=False)
class Dataset:
    """A card: what the data are, where they come from, and how they are split and transformed.

    Args:
        name: how it was asked for: a shipped name, or a path; None where the arrays came from
            memory.
        splits: "train" and any of "valid" and "test".
        stored_support: where the stored values lie, before the transforms.
        transforms: from stored values to x, in order.
        seed: of the split and of the random transforms on validation and test examples.
        columns: the names of the entries of x, where they have any.
        decimals: of each column of a table, how many decimals its values have as stored, and None
            where there are too many to be meant; None of other data.
        column_supports: where each column of a table lies, before the transforms; None of other
            data.
        categories: of columns that hold classes, by name: the labels, in the order of their levels.
        options: the arguments that :func:`lowerbound.data.load` was given, so that a run can load
            it again.
        source: where the data come from.
        sha256: of the stored data.
        licence: as stated by the source; None where none is known.
        classes: the names of the classes that labels stand for, in their order; None where there
            are none.
        strip: first and last of the pixel columns that are y in the place of the labels; None
            leaves the labels.
        labelled_share: of the examples of each training batch, how many are labelled; None shows
            each example once an epoch.
        left_out: the names of the columns of the table that are no part of x.

    Example:
        >>> import lowerbound as lb
        >>> digits = lb.data.load("digits")
        >>> digits.event_shape, len(digits["train"]), digits.examples("test").shape
        ((1, 8, 8), 1437, torch.Size([180, 1, 8, 8]))
    """

    name: str | None
    splits: Mapping[str, Split]
    stored_support: Constraint
    transforms: tuple[Transform, ...] = ()
    seed: int = 0
    columns: tuple[str, ...] | None = None
    column_supports: tuple[Constraint, ...] | None = None
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    source: str = "arrays in memory"
    sha256: str | None = None
    licence: str | None = None
    classes: tuple[str, ...] | None = None
    strip: tuple[int, int] | None = None
    labelled_share: float | None = None
    left_out: tuple[str, ...] = ()
    decimals: tuple[int | None, ...] | None = None

    def __post_init__(self) -> None:
        shapes = {name: tuple(split.values.shape[1:]) for name, split in self.splits.items()}
        if len(set(shapes.values())) != 1:
            raise ValueError(f"all splits must hold examples of one shape, not {shapes}")
        # a transform that does not fit the data is refused here, not in training
        self.support  # noqa: B018
        for transform in self.transforms:
            transform.check_shape(self.event_shape)
        if self.strip is not None:
            self._check_strip(*self.strip)

    @property
    def event_shape(self) -> Shape:
        """X, the shape of one example."""
        return tuple(next(iter(self.splits.values())).values.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """Of x: float32, or float64 where float32 would change it (:mod:`.data.precision`)."""
        stored = next(iter(self.splits.values())).values.dtype
        return torch.float64 if stored == torch.float64 else torch.float32

    @property
    def support(self) -> Constraint:
        """Where x lies, after all transforms."""
        support = self.stored_support
        for transform in self.transforms:
            support = transform.support(support)
        return support

    @property
    def lies_on(self) -> Constraint:
        """Where x lies, column by column where they differ: what a likelihood's support has to
        contain.
        """
        if self.transforms or self.column_supports is None or len(set(self.column_supports)) < 2:
            return self.support
        return Columns(self.column_supports)

    @property
    def log_levels_per_dim(self) -> float | None:
        """The Jacobian of data dequantised from L levels, log L in nats per dimension; None of all
        others.

        It turns the nll of a density into one of the levels: see
        :class:`~lowerbound.data.transforms.Dequantise`.
        """
        levels = [
            transform.levels for transform in self.transforms if isinstance(transform, Dequantise)
        ]
        return math.log(levels[0]) if levels else None

    @cached_property  # of a file, all values have to be read for it
    def range(self) -> tuple[float, float]:
        """Smallest and largest value that x can take, for pictures; of unbounded data, those in the
        first split.
        """
        if contains(UNIT, self.support):
            return 0.0, 1.0
        first = next(iter(self.splits.values()))
        values = first.values
        if isinstance(values, MappedRows):
            ends = [(float(part.min()), float(part.max())) for part in values.chunks()]
            return min(low for low, _ in ends), max(high for _, high in ends)
        values = values if first.mask is None else values[first.mask]
        return float(values.min()), float(values.max())

    def __getitem__(self, split: str) -> Split:
        if split not in self.splits:
            raise ValueError(f"{unknown('split', split, self.splits)} of {self}")
        return self.splits[split]

    @property
    def is_mapped(self) -> bool:
        """Whether the values stay in their file, which may be larger than memory: take them in
        pieces.
        """
        return any(isinstance(split.values, MappedRows) for split in self.splits.values())

    @property
    def is_traced(self) -> bool:
        """Whether a compiled step may gather and present examples within its graph."""
        return not self.is_mapped and all(transform.is_traced for transform in self.transforms)

    def examples(self, split: str, first: int | None = None) -> Tensor:
        """A split as x (n, *X) in the units of the file, of the card's ``dtype``, not augmented,
        random transforms fixed by the seed: always the same.

        Args:
            split: which.
            first: only the first so many.

        Raises:
            ValueError: there is no such split, or, of values in a file, they do not fit into memory
                as that.
        """
        n = len(self[split]) if first is None else min(first, len(self[split]))
        if self.is_mapped:
            needed = self.dtype.itemsize * n * numel(self.event_shape)
            check_fits(
                needed, f"the split {split} of {self.name}", "take it in pieces: Dataset.batches"
            )
        pieces = list(self.batches(split, max(1, n), first))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def batches(
        self, split: str, size: int | None = None, first: int | None = None
    ) -> Iterator[Tensor]:
        """The same in pieces, (b, *X) each: the values do not depend on how large those are.

        Args:
            split: which.
            size: examples in a piece; the last may be smaller. By default as many as fit into 32
                MiB.
            first: only the first so many of the split.

        Example:
            >>> import lowerbound as lb
            >>> digits = lb.data.load("digits", binarize="dynamic")
            >>> pieces = list(digits.batches("test", 50))
            >>> [len(x) for x in pieces], torch.equal(torch.cat(pieces), digits.examples("test"))
            ([50, 50, 50, 30], True)
        """
        values = self[split].values
        n = len(values) if first is None else min(first, len(values))
        size = size or max(1, PIECE // (4 * numel(self.event_shape)))
        each = self._measured(split)
        for start in range(0, n, size) if n else [0]:
            stop = min(start + size, n)
            x = values[start:stop]
            for transform, generator in each:
                x = transform(x, generator)
            yield x.to(self.dtype)
            if isinstance(values, MappedRows):
                values.release(start, stop)

    def excerpt(self, split: str) -> tuple[Tensor, bool]:
        """Examples for statistics, of the card's ``dtype``, and whether they are all of the split.

        They are all where the values are in memory, and where they fit into 256 MiB. Of others in a
        file they are as many as fit, at least 1,000: by the seed, from a thousand places of the
        file, random transforms drawn by the seed.
        """
        values = self[split].values
        size = max(LEAST, EXCERPT // (4 * numel(self.event_shape)))
        if not isinstance(values, MappedRows) or len(values) <= size:
            return self.examples(split), True
        order = windowed(len(values), (self.seed, 0), values.block, values.window)
        generator = torch.Generator().manual_seed(self.seed)
        measured = [transform for transform in self.transforms if not transform.training_only]
        some = values[order[:size].sort().values]
        values.release(0, len(values))
        return _transformed(some, measured, generator).to(self.dtype), False

    def order(self, split: str, seed: int, epoch: int) -> Tensor:
        """The order in which an epoch shows the examples of a split, int64 (n,): it follows from
        seed and epoch alone.

        Of values in a file it is one of windows, as :func:`~lowerbound.data.mapped.windowed`
        explains. With a share of labelled examples those recur, and others wait for another epoch.
        """
        values = self[split].values
        if isinstance(values, MappedRows):
            return windowed(len(values), (seed, epoch), values.block, values.window)
        rng, y = np.random.default_rng((seed, epoch)), self[split].y
        if self.labelled_share is None or split != "train" or y is None:
            return torch.from_numpy(rng.permutation(len(values)))
        return torch.from_numpy(_with_share(y.numpy() >= 0, self.labelled_share, rng))

    def read_ahead(self, split: str, order: Tensor, done: int, count: int) -> None:
        """Have what comes after these examples read from their file, where they are in one; nothing
        waits for it.

        Args:
            split: which.
            order: of the epoch.
            done: how many examples of it are past.
            count: how many come now.
        """
        values = self[split].values
        if isinstance(values, MappedRows):
            values.read_ahead(order, done, count)

    def context(self, split: str) -> Context:
        """What is known of the examples of a split beside x, in their order: their labels, or a
        strip of each.
        """
        part = self[split]
        y = part.y if self.strip is None else self.strip_of(self.examples(split))
        return Context(y=y, mask=part.mask)

    @property
    def condition(self) -> int | Shape | None:
        """What a part must be told to be conditioned on y: the number of classes, the shape of real
        values, or None.
        """
        if self.strip is not None:
            first, last = self.strip
            return (*self.event_shape[:-1], last - first + 1)
        if self.classes is not None:
            return len(self.classes)
        y = next(iter(self.splits.values())).y
        return None if y is None else tuple(y.shape[1:])

    def strip_of(self, x: Tensor) -> Tensor:
        """The columns of pictures (..., H, W) that are y."""
        first, last = self.strip or (0, self.event_shape[-1] - 1)
        return x[..., first : last + 1]

    def label(self, name: str) -> int:
        """The number of a class.

        Raises:
            ValueError: there is no class of that name, or there are none.
        """
        if self.classes is None:
            raise ValueError(f"there are no classes, so no label {name!r}: {self}")
        if name not in self.classes:
            raise ValueError(unknown("label", name, self.classes))
        return self.classes.index(name)

    def _check_strip(self, first: int, last: int) -> None:
        """Refuse a strip that there is not, or that would be another's than x's."""
        shape = self.event_shape
        if len(shape) < 2 or not 0 <= first <= last < shape[-1]:
            columns = f"columns 0 to {shape[-1] - 1}" if len(shape) >= 2 else "no pixel columns"
            raise ValueError(
                f"strip is [{first}, {last}], and examples of shape {shape} have {columns}"
            )
        if drawn := [
            type(transform).__name__ for transform in self.transforms if transform.is_random
        ]:
            raise ValueError(
                f"strip takes y from x, and {drawn[0]} draws x anew at each presentation, so that "
                "they would differ; use binarize='threshold', or leave the values grey"
            )

    def factors(self, split: str) -> Tensor:
        """What the examples of a split were made from, (n, F): its factors, or its label, where
        that is one of classes.

        Raises:
            ValueError: there is neither.
        """
        known = self[split]
        if known.factors is not None:
            return known.factors
        if known.y is None or self.classes is None or bool((known.y < 0).any()):
            raise ValueError(
                f"{split} of {self} has no factors: give them (from_arrays(..., factors=), or "
                "--data.factors with an array of a .npz), or labels that are classes, one for "
                "every example"
            )
        return known.y[:, None]

    def present(self, split: str, index: Tensor) -> Tensor:
        """The examples at ``index`` (b,) for training, (b, *X), of the card's ``dtype``, random
        transforms drawn anew.
        """
        values = self[split].values
        # one that stands in memory is gathered in a fifth of the time that an index takes
        rows = values.index_select(0, index) if isinstance(values, Tensor) else values[index]
        return _transformed(rows, self.transforms, None).to(self.dtype)

    def _measured(self, split: str) -> list[tuple[Transform, torch.Generator | None]]:
        """The transforms of :meth:`examples`, each with a generator of its own where it is random.

        They stand where one generator would, handed through all examples by one transform after the
        other.
        """
        generator = torch.Generator().manual_seed(self.seed + 1 + sorted(self.splits).index(split))
        measured: list[tuple[Transform, torch.Generator | None]] = []
        random = [
            transform
            for transform in self.transforms
            if transform.is_random and not transform.training_only
        ]
        for transform in self.transforms:
            if transform.training_only:
                continue
            if not transform.is_random:
                measured.append((transform, None))
                continue
            measured.append((transform, torch.Generator().set_state(generator.get_state())))
            # how far it moves the generator depends on the number of values alone
            if transform is not random[-1]:
                left, size = len(self[split]), max(1, PIECE // (4 * numel(self.event_shape)))
                for start in range(0, left, size):
                    transform(torch.zeros(min(size, left - start), *self.event_shape), generator)
        return measured

    def __repr__(self) -> str:
        return f"<Dataset {self}>"

    def __str__(self) -> str:
        sizes = "/".join(f"{len(split):,}" for split in self.splits.values())
        shape = "x".join(map(str, self.event_shape)) or "scalar"
        masks = [split.mask for split in self.splits.values() if split.mask is not None]
        missing = (
            1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
            if masks
            else 0.0
        )
        name = printable(self.name or "data from memory")
        return f"{name}: {sizes} {'/'.join(self.splits)}, {shape}, on {describe(self.support)}" + (
            f", {missing:.1%} of the entries missing" if masks else ""
        )


def _transformed(
    values: Tensor, transforms: Iterable[Transform], generator: torch.Generator | None
) -> Tensor:
    for transform in transforms:
        values = transform(values, generator)
    return values


@dataclass(frozen=True)
class Stored:
    """What a source gives: arrays as they are in the file, before they are split and transformed.

    Args:
        x: (n, *X), uint8, another integer type, or floating point; an array, or one that stays in
            its file.
        y: labels, (n,), numbers or text, or None.
        mask: True where an entry is observed, (n, *X), or None.
        levels: the number of grey levels, where the values are the integers 0..levels-1; None
            otherwise.
        columns: the names of the entries of x, or None.
        categories: the labels of columns that hold classes, by name; x holds l / (L - 1) for the
            l-th of L.
        parts: sizes of the published splits in the order of the file, by name; None where the
            source has none.
        source: where the data come from.
        licence: as stated by the source.
        factors: what each example was made from, (n,) or (n, F), or None.
        left_out: the names of the columns of the table that are no part of x.
    """

    x: NDArray[Any] | MappedArray
    y: NDArray[Any] | None = None
    mask: NDArray[Any] | None = None
    levels: int | None = None
    columns: tuple[str, ...] | None = None
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    parts: Mapping[str, int] | None = None
    source: str = "arrays in memory"
    licence: str | None = None
    factors: NDArray[Any] | None = None
    left_out: tuple[str, ...] = ()


def _with_share(
    chosen: NDArray[np.bool_], share: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """As many indices as there are examples, of which every few that follow each other hold this
    share of the chosen ones.

    The chosen come in one random order after another, and so do the others.
    """
    places = np.diff(np.floor(np.arange(len(chosen) + 1) * share)) > 0
    order = np.empty(len(chosen), np.int64)
    for where, index in ((places, np.flatnonzero(chosen)), (~places, np.flatnonzero(~chosen))):
        rounds = -(-int(where.sum()) // len(index))
        shuffled = np.concatenate([rng.permutation(index) for _ in range(rounds)])
        order[where] = shuffled[: where.sum()]
    return order
