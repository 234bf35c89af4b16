"""From stored arrays to a card: which values they are, what is made of them, and how they are
split.

Integers 0..L-1 that are grey levels are kept as they are stored and put on {0, 1/(L-1), ..., 1}
when they are shown. Which L that is, is written on the card, so that another file of the same kind
is read on the same scale, whatever values it holds.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributions.constraints import Constraint

from lowerbound.data.dataset import Dataset, Split, Stored
from lowerbound.data.mapped import MappedArray, MappedRows
from lowerbound.data.transforms import (
    Bernoulli,
    Dequantise,
    Flip,
    Shift,
    Threshold,
    Transform,
    UnitScale,
)
from lowerbound.supports import BINARY, COUNTS, INTEGER, REAL, Levels, smallest, union
from lowerbound.utils.messages import unknown

Splits = Literal["train_valid_test", "train_test", "all"]
Binarize = Literal["dynamic", "threshold"]
Missing = Literal["refuse", "marginalise"]

MARGINALISE = "missing='marginalise' (--data.missing marginalise) leaves them out of every density"

CLASSES = 1000  # more distinct whole numbers than that are amounts, and no classes


def make_card(stored: Stored, name: str | None, options: Mapping[str, Any]) -> Dataset:
    """The card of stored arrays.

    Args:
        stored: what the source gave.
        name: how it was asked for.
        options: the arguments of :func:`lowerbound.data.load`, but for the source.

    Raises:
        ValueError: values, labels or options that do not fit each other; which, and what would.
        TypeError: values that are no numbers.
    """
    where, options = name or "x", {key: plain(value) for key, value in options.items()}
    for option, valid in (("splits", Splits), ("binarize", Binarize), ("missing", Missing)):
        if options[option] is not None and options[option] not in get_args(valid):
            raise ValueError(unknown(f"value of {option}", str(options[option]), get_args(valid)))
    stored = _observed(stored, where, options["missing"])
    values, support, transforms = _values(stored, where, options["levels"])
    mask = None if stored.mask is None else torch.from_numpy(stored.mask)
    y, classes = (
        (None, None)
        if stored.y is None
        else _labels(stored.y, len(values), where, options["classes"])
    )
    factors = None if stored.factors is None else _factors(stored.factors, len(values), where)
    strip = options["strip"]
    if strip is not None and len(strip) != 2:
        raise ValueError(
            f"strip is {list(strip)}: it must be the first and the last pixel column, as in [12, "
            "15]"
        )
    scale = next((t for t in transforms if isinstance(t, UnitScale)), None)
    known_levels = scale.levels if scale else options["levels"] or "none"
    if mask is not None and (options["shift"] or options["flip"]):
        raise ValueError(
            "flip and shift move pixels and leave the mask of missing ones where it is; leave them "
            "out"
        )
    if options["shift"]:
        transforms = (Shift(options["shift"]), *transforms)
    if options["flip"]:
        transforms = (Flip(), *transforms)
    if options["binarize"]:
        transforms += (Bernoulli() if options["binarize"] == "dynamic" else Threshold(),)
    if options["dequantize"]:
        dequantise = Dequantise.of(BINARY if options["binarize"] else support)
        transforms += (dequantise,)
        known_levels = dequantise.levels if known_levels == "none" else known_levels
    splits = _split(
        values, (y, mask, factors), stored.parts, options["splits"], options["seed"], where
    )
    if options["labelled"] is not None and "train" in splits:
        splits["train"] = _few_labels(
            splits["train"], options["labelled"], classes, options["seed"], where
        )
    if options["labelled_share"] is not None and "train" in splits:
        _check_share(options["labelled_share"], splits["train"])
    return Dataset(
        name=name,
        splits=splits,
        stored_support=support,
        transforms=transforms,
        seed=options["seed"],
        # the levels as resolved: another file of the same kind is to be read on the same scale,
        # whatever values it holds
        options={
            **options,
            "levels": known_levels,
            "classes": None if classes is None else list(classes),
            "strip": None if strip is None else list(strip),
            **_resolved_categories(options, stored),
        },
        columns=stored.columns,
        column_supports=_column_supports(values, mask, support, stored),
        categories=stored.categories,
        source=stored.source,
        sha256=_sha256(values, y, mask, factors),
        licence=stored.licence,
        classes=classes,
        strip=None if strip is None else (strip[0], strip[1]),
        labelled_share=options["labelled_share"],
    )


def plain(value: Any) -> Any:
    """A setting as Python's own numbers, text and lists, which a file can hold; numpy's become
    those, and all else stays as it is.

    Example:
        >>> plain([np.str_("a"), np.int64(3)]), plain(np.array([True, False])), plain("a")
        (['a', 3], [True, False], 'a')
    """
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value


def _observed(stored: Stored, where: str, missing: str) -> Stored:
    """The same with zero for what is missing, so that nothing depends on what stands there, and a
    mask that says where.

    Zero lies on every support, so that it takes part in no choice of one. A NaN is missing where
    the user says so.
    """
    if isinstance(stored.x, MappedArray):  # whose reader has seen to it that nothing is missing
        return stored
    x, mask = np.asarray(stored.x), stored.mask
    if mask is not None:
        if mask.shape != x.shape:
            raise ValueError(
                f"{where} has a mask of shape {mask.shape} for values of shape {x.shape}; it must "
                "be of one shape with them: True (1) for every entry that is observed, False (0) "
                "for every one that is missing"
            )
        if mask.dtype != bool and not (mask.dtype.kind in "uif" and np.isin(mask, (0, 1)).all()):
            raise ValueError(
                f"{where} has a mask of other values than 0 (missing) and 1 (observed)"
            )
        mask = mask.astype(bool)
    if missing == "marginalise" and x.dtype.kind == "f":
        known = ~np.isnan(x)
        mask = known if mask is None else mask & known
    if mask is None or mask.all():
        return stored if mask is None else replace(stored, mask=None)
    if not mask.any():
        raise ValueError(f"{where} holds no value that is observed")
    return replace(stored, x=np.where(mask, x, np.zeros((), x.dtype)), mask=mask)


def _column_supports(
    values: torch.Tensor | MappedRows,
    mask: torch.Tensor | None,
    support: Constraint,
    stored: Stored,
) -> tuple[Constraint, ...] | None:
    """Where each column of a table lies, by its observed values; None of other data."""
    if len(values.shape) != 2:
        return None
    if isinstance(values, MappedRows):
        return _supports_of_a_file(values, support)
    found: list[Constraint] = []
    for j, column in enumerate(values.unbind(1)):
        known = column if mask is None else column[mask[:, j]]
        name = stored.columns[j] if stored.columns else ""
        if name in stored.categories:
            found.append(Levels(len(stored.categories[name])))
        else:
            found.append(
                support
                if isinstance(support, Levels) or not len(known)
                else _narrowest(known, support)
            )
    return tuple(found)


def _supports_of_a_file(values: MappedRows, support: Constraint) -> tuple[Constraint, ...]:
    """The same for columns in a file, none of which holds classes."""
    if isinstance(support, Levels):
        return (support,) * values.shape[1]
    found: list[Constraint] = [BINARY] * values.shape[1]
    for part in values.chunks():
        for j, own in enumerate(found):
            if own is not REAL and own != support:  # which no column can exceed
                found[j] = union([own, _narrowest(part[:, j], support)])
        if all(own is REAL or own == support for own in found):
            break
    return tuple(found)


def _narrowest(values: torch.Tensor, support: Constraint) -> Constraint:
    """The smallest set that holds a column, within that of the whole table: whole numbers stay that
    below zero.
    """
    own = smallest(values)
    return INTEGER if own is REAL and support is INTEGER else own


def _resolved_categories(options: Mapping[str, Any], stored: Stored) -> dict[str, Any]:
    """The option categorical with the labels as found: another file is to be read with the same
    codes.
    """
    if not options["categorical"]:
        return {}
    return {
        "categorical": [f"{name}={'|'.join(labels)}" for name, labels in stored.categories.items()]
    }


def _values(
    stored: Stored, where: str, levels: int | Literal["none"] | None
) -> tuple[torch.Tensor | MappedRows, Constraint, tuple[Transform, ...]]:
    """The stored values as tensors, where they lie, and the transform onto the unit scale where
    they are levels.
    """
    x, dtype = stored.x, stored.x.dtype
    if x.ndim == 0 or len(x) == 0 or 0 in x.shape:
        raise ValueError(
            f"{where} holds no examples: its shape is {x.shape}, and examples come first, (n, *X)"
        )
    if dtype.kind not in "buif":
        raise TypeError(
            f"{where} holds values of type {dtype}; real numbers, integers or booleans are needed"
        )
    if dtype.kind == "f":
        if isinstance(x, np.ndarray):
            with np.errstate(over="ignore"):  # what overflows is refused below, in words
                x = np.ascontiguousarray(x.astype(np.float32))
        return _as(x, np.float32), _support(x, stored, where, levels), ()
    ends = [(int(part.min()), int(part.max())) for _, part in _parts(x)]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    is_binary = stored.levels is None and low >= 0 and high <= 1
    if levels is not None and levels != "none" and levels < 2:
        raise ValueError(f"levels is {levels}: at least 2 are needed")
    if levels is None:
        levels = 2 if is_binary else stored.levels or (256 if dtype == np.uint8 else "none")
    if levels == "none":
        counts = COUNTS if low >= 0 else INTEGER
        return _as(x, np.float32), BINARY if is_binary else counts, ()
    scale = UnitScale(levels)
    support = scale.support(INTEGER)
    if low < 0 or high >= levels:
        raise ValueError(
            f"{where} holds integers from {low} to {high}, which are not {levels} levels "
            f"0..{levels - 1}"
        )
    return _as(x, np.uint8 if levels <= 256 else np.int32), support, (scale,)


def _support(
    x: NDArray[Any] | MappedArray, stored: Stored, where: str, levels: int | Literal["none"] | None
) -> Constraint:
    """Where floating-point values lie; ValueError where one is not finite, or none of the
    levels.
    """
    unfit, is_nan = 0, False
    first: tuple[int, ...] = ()
    support: Constraint = BINARY
    known = None if stored.mask is None else torch.from_numpy(stored.mask)
    for start, part in _parts(x):
        with np.errstate(over="ignore"):
            values = part.astype(np.float32, copy=not part.flags.writeable)
        bad = ~np.isfinite(values)
        if bad.any():
            unfit += int(bad.sum())
            is_nan = is_nan or bool(np.isnan(values).any())
            if not first:
                row, *rest = (int(i) for i in np.argwhere(bad)[0])
                first = (start + row, *rest)
        elif isinstance(levels, int):
            if not bool(Levels(levels).check(torch.from_numpy(values)).all()):
                raise ValueError(
                    f"{where} holds values that are not among the {levels} levels 0, "
                    f"1/{levels - 1}, ..., 1"
                )
        elif support is not REAL:
            own = torch.from_numpy(values)
            support = union([support, smallest(own if known is None else own[known])])
    if unfit:
        raise ValueError(
            f"{where} holds {unfit:,} of {math.prod(x.shape):,} values that are NaN or infinite in "
            f"float32, the first at index {first}; remove or replace them"
            + (f", or, where NaN means missing, {MARGINALISE}" if is_nan else "")
        )
    return Levels(levels) if isinstance(levels, int) else support


def _parts(x: NDArray[Any] | MappedArray) -> Iterator[tuple[int, NDArray[Any]]]:
    """All values: at once, or in chunks from their file, with the number of the first example of
    each.
    """
    return iter([(0, x)]) if isinstance(x, np.ndarray) else x.chunks()


def _as(x: NDArray[Any] | MappedArray, dtype: type[np.generic]) -> torch.Tensor | MappedRows:
    """The values as tensors of a type."""
    if isinstance(x, MappedArray):
        return MappedRows(x, np.dtype(dtype))
    own = np.ascontiguousarray(
        x, dtype
    )  # no copy yet of what has the type: taking the splits' rows makes one
    return torch.from_numpy(own if own.flags.writeable else own.copy())


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


def _split(
    values: torch.Tensor | MappedRows,
    beside: tuple[torch.Tensor | None, ...],
    parts: Mapping[str, int] | None,
    splits: str,
    seed: int,
    where: str,
) -> dict[str, Split]:
    n = len(values)
    names = {
        "train_valid_test": ("train", "valid", "test"),
        "train_test": ("train", "test"),
        "all": ("all",),
    }[splits]
    if n < len(names):
        raise ValueError(
            f"{where} holds {n} example{'s' * (n > 1)}: too few to be split into "
            f"{', '.join(names)}, one each at least"
        )
    if parts is None:
        tenth = max(1, round(n / 10))
        parts = {"train": n - 2 * tenth, "valid": tenth, "test": tenth}
        order = torch.from_numpy(np.random.default_rng(seed).permutation(n))
    else:
        order = torch.arange(n)
    sizes = dict(parts)
    if splits == "train_test":
        sizes["train"] += sizes.pop("valid")
    if splits == "all":
        sizes, order = {"all": n}, torch.arange(n)
    pieces = torch.split(order, [sizes[name] for name in names])
    # sorted, so that within a split the examples keep the order of the file
    index = {name: piece.sort().values for name, piece in zip(names, pieces, strict=True)}
    return {
        name: Split(
            values.rows(i) if isinstance(values, MappedRows) else values[i],
            *(None if part is None else part[i] for part in beside),
        )
        for name, i in index.items()
    }


def _few_labels(
    split: Split, n: int, classes: tuple[str, ...] | None, seed: int, where: str
) -> Split:
    """The split with n labels, as many of each class, drawn by the seed; the others are unknown,
    -1.
    """
    if classes is None or split.y is None:
        raise ValueError(
            f"labelled is {n}, and {where} has no classes; leave it out, or give labels"
        )
    each, rest = divmod(n, len(classes))
    fewest = int(torch.bincount(split.y, minlength=len(classes)).min())
    if n < 1 or rest or each > fewest:
        raise ValueError(
            f"labelled is {n}: it must be a multiple of the {len(classes)} classes, of which one "
            f"has {fewest} examples to train on, so at most {fewest * len(classes)}"
        )
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(split)))
    y = torch.full_like(split.y, -1)
    for c in range(len(classes)):
        known = order[split.y[order] == c][:each]
        y[known] = c
    return replace(split, y=y)


def _check_share(share: float, split: Split) -> None:
    if not 0 < share < 1:
        raise ValueError(
            f"labelled_share is {share}: it must lie between 0 and 1, as the share of each batch "
            "that is labelled"
        )
    if split.y is None or bool((split.y >= 0).all()):
        raise ValueError(
            "labelled_share is for data of which few are labelled: say how many by labelled, or "
            "leave it out"
        )
    if isinstance(split.values, MappedRows):
        raise ValueError(
            "labelled_share shows examples in an order that a mapped file cannot: add "
            "memory='load', or leave it out"
        )


def _sha256(*parts: torch.Tensor | MappedRows | None) -> str:
    digest = hashlib.sha256()
    for part in parts:
        if part is not None:
            digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
            for piece in part.chunks() if isinstance(part, MappedRows) else [part]:
                digest.update(piece.contiguous().numpy().data)
    return digest.hexdigest()
