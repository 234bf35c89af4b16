"""From stored arrays to a card: what is made of them, and what is known of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributions.constraints import Constraint

from lowerbound.data.axes import check_axes, has_channels_last
from lowerbound.data.columns import column_supports, resolved_categories
from lowerbound.data.dataset import Dataset, Stored
from lowerbound.data.decimals import decimals_of
from lowerbound.data.few_labels import check_share, few_labels
from lowerbound.data.mapped import MappedRows
from lowerbound.data.missing import observed
from lowerbound.data.options import Options
from lowerbound.data.splitting import split_examples
from lowerbound.data.transforms import (
    Bernoulli,
    Dequantise,
    Flip,
    Shift,
    Threshold,
    Transform,
    UnitScale,
)
from lowerbound.data.values import as_tensors
from lowerbound.supports import BINARY
from lowerbound.utils.messages import unknown

CLASSES = 1000  # more distinct whole numbers than that are amounts, and no classes


def make_card(stored: Stored, name: str | None, options: Options) -> Dataset:
    """The card of stored arrays.

    Args:
        stored: what the source gave.
        name: how it was asked for; None for arrays in memory.
        options: the arguments of :func:`lowerbound.data.load`, but for the source.

    Raises:
        ValueError: values, labels or options that do not fit each other; which, and what would.
        TypeError: values that are no numbers.
    """
    where = name or "x"
    stored = observed(_channels_first(stored, where, options), where, options.missing)
    if options.flip or options.shift or options.strip is not None:
        actor = "flip" if options.flip else "shift" if options.shift else "strip"
        if has_channels_last(stored.x.shape[1:]):
            check_axes(stored.x.shape[1:], options.channels, actor, where)
    # what becomes 0 and 1, or noise within a level, needs no more than float32
    is_kept = options.binarize is None and not options.dequantize
    dtype = options.dtype if is_kept else None
    values, support, scale = as_tensors(stored, where, options.levels, dtype)
    n = len(values)
    mask = None if stored.mask is None else torch.from_numpy(stored.mask)
    y, classes = (None, None) if stored.y is None else _labels(stored.y, n, where, options.classes)
    factors = None if stored.factors is None else _factors(stored.factors, n, where)
    if mask is not None and (options.shift or options.flip):
        raise ValueError(
            "flip and shift move pixels and leave the mask of missing ones where it is; leave them "
            "out"
        )
    transforms = _transforms(scale, support, options)
    splits = split_examples(values, (y, mask, factors), stored.parts, options, where)
    if options.labelled is not None and "train" in splits:
        splits["train"] = few_labels(
            splits["train"], options.labelled, classes, options.seed, where
        )
    if options.labelled_share is not None and "train" in splits:
        check_share(options.labelled_share, splits["train"])
    return Dataset(
        name=name,
        splits=splits,
        stored_support=support,
        transforms=transforms,
        seed=options.seed,
        options=options.record(
            is_of_file=name is not None,
            is_mapped=isinstance(values, MappedRows),
            levels=_levels(transforms, options),
            classes=classes,
            categorical=resolved_categories(options, stored),
            columns=stored.columns,
            ignore=stored.left_out or None,
            dtype="float64" if values.dtype == torch.float64 else options.dtype,
        ),
        columns=stored.columns,
        decimals=decimals_of(stored),
        column_supports=column_supports(values, mask, support, stored),
        categories=stored.categories,
        source=stored.source,
        sha256=_sha256(values, y, mask, factors),
        licence=stored.licence,
        classes=classes,
        strip=None if options.strip is None else (options.strip[0], options.strip[1]),
        labelled_share=options.labelled_share,
        left_out=stored.left_out,
    )


def _channels_first(stored: Stored, where: str, options: Options) -> Stored:
    """The same with the axis of channels before all others, where it is the last.

    Raises:
        ValueError: there is none to be moved.
    """
    if options.channels != "last":
        return stored
    if stored.x.ndim < 3:
        raise ValueError(
            f"{where} has examples of shape {stored.x.shape[1:]}, which have no axis of channels "
            "to be moved; leave channels out (--data.channels)"
        )
    x, mask = (None if a is None else np.ascontiguousarray(np.moveaxis(np.asarray(a), -1, 1))
               for a in (stored.x, stored.mask))  # fmt: skip
    assert x is not None  # examples there are
    return replace(stored, x=x, mask=mask)


def _transforms(
    scale: UnitScale | None, support: Constraint, options: Options
) -> tuple[Transform, ...]:
    """From stored values to x, in order.

    Args:
        scale: onto the unit scale, of levels.
        support: where the stored values lie.
        options: which were asked for.
    """
    transforms: list[Transform] = []
    if options.flip:
        transforms.append(Flip())
    if options.shift:
        transforms.append(Shift(options.shift))
    if scale is not None:
        transforms.append(scale)
    if options.binarize is not None:
        transforms.append(Bernoulli() if options.binarize == "dynamic" else Threshold())
    if options.dequantize:
        transforms.append(Dequantise.of(support if options.binarize is None else BINARY))
    return tuple(transforms)


def _levels(transforms: Sequence[Transform], options: Options) -> int | Literal["none"]:
    """How many levels the values turned out to have, so that another file of the same kind is read
    on the same scale, whatever values it holds.
    """
    for transform in transforms:
        if isinstance(transform, UnitScale):
            return transform.levels
    if isinstance(options.levels, int):
        return options.levels
    for transform in transforms:
        if isinstance(transform, Dequantise):
            return transform.levels
    return "none"


def _labels(
    y: NDArray[Any], n: int, where: str, known: Sequence[str] | None
) -> tuple[torch.Tensor, tuple[str, ...] | None]:
    """Labels as numbers, and the names of their classes: text and whole numbers, unless those are
    too many, are classes.
    """
    if y.ndim == 0 or len(y) != n:
        raise ValueError(
            f"{where} has {n} examples but {len(y) if y.ndim else 1} labels; there must be one for "
            "each"
        )
    if y.dtype.kind in "OT":
        y = _of_one_type(y, where)
    if y.dtype.kind not in "buifU":
        raise TypeError(
            f"{where} has labels of type {y.dtype}; numbers or text are needed (y.astype(str))"
        )
    if y.dtype.kind == "f":
        return torch.from_numpy(y.astype(np.float32)), None
    values, codes = np.unique(
        y.astype(np.int64) if y.dtype.kind in "bui" else y, return_inverse=True
    )
    names = [str(value) for value in values]
    if known is None and (y.ndim > 1 or len(names) > CLASSES):
        return torch.from_numpy(y.astype(np.float32 if y.dtype.kind == "U" else np.int64)), None
    classes = tuple(str(name) for name in known) if known is not None else tuple(names)
    if strange := [name for name in names if name not in classes]:
        raise ValueError(
            f"{where} has labels that are not among the classes: "
            f"{unknown('label', strange[0], classes)}"
        )
    places = np.array([classes.index(name) for name in names])
    return torch.from_numpy(places[codes.reshape(-1)]), classes


def _of_one_type(labels: NDArray[Any], where: str) -> NDArray[Any]:
    """Python objects as an array of numbers or text; a column of a pandas frame comes as such."""
    for kinds in (str, (int, float, np.number, np.bool_)):
        if all(isinstance(label, kinds) for label in labels.flat):
            return np.array(labels.tolist())
    types = sorted({type(label).__name__ for label in labels.flat})
    raise TypeError(
        f"{where} has labels of type {', '.join(types)}; all must be numbers, or all text"
    )


def _factors(factors: NDArray[Any], n: int, where: str) -> torch.Tensor:
    """Factors as numbers, (n, F)."""
    if factors.ndim not in (1, 2) or len(factors) != n:
        raise ValueError(
            f"{where} has {n} examples but factors of shape {factors.shape}; (n,) or (n, F) is "
            "needed"
        )
    if factors.dtype.kind not in "buif" or not np.isfinite(factors).all():
        raise ValueError(
            f"{where} has factors of type {factors.dtype}, or such as are not finite; finite "
            "numbers are needed"
        )
    return torch.from_numpy(
        factors.reshape(n, -1).astype(np.float64 if factors.dtype.kind == "f" else np.int64)
    )


def _sha256(*parts: torch.Tensor | MappedRows | None) -> str:
    digest = hashlib.sha256()
    for part in parts:
        if part is not None:
            digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
            for piece in part.chunks() if isinstance(part, MappedRows) else [part]:
                digest.update(piece.contiguous().numpy().data)
    return digest.hexdigest()
