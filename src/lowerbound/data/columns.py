"""Where each column of a table lies, and which labels its classes have."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from lowerbound.data.dataset import Stored
from lowerbound.data.mapped import MappedRows
from lowerbound.data.options import Options
from lowerbound.supports import BINARY, COUNTS, INTEGER, REAL, UNIT, Levels

AT_ONCE = 2**22  # entries that are looked at together: a few of their truth values take 16 MiB


def column_supports(
    values: Tensor | MappedRows,
    mask: Tensor | None,
    support: Constraint,
    stored: Stored,
) -> tuple[Constraint, ...] | None:
    """Where each column of a table lies, by its observed values; None of other data."""
    if len(values.shape) != 2:
        return None
    if isinstance(support, Levels):
        supports: list[Constraint] = [support] * values.shape[1]
    else:
        supports = _narrowest(values, mask, support)
    for name, labels in stored.categories.items():
        if stored.columns:
            supports[stored.columns.index(name)] = Levels(len(labels))
    return tuple(supports)


def _narrowest(
    values: Tensor | MappedRows, mask: Tensor | None, support: Constraint
) -> list[Constraint]:
    """The smallest set that holds each column, within that of the whole table: whole numbers stay
    that below zero, and of a column without a value nothing is known.

    Columns are looked at many together: there may be millions of them.
    """
    widest = INTEGER if support is INTEGER else REAL
    # in this order, which is that of supports.smallest: the first that holds all values
    kinds = (BINARY, UNIT, COUNTS, widest, support)
    holds = torch.ones(len(kinds), values.shape[1], dtype=torch.bool)
    seen = torch.zeros(values.shape[1], dtype=torch.bool)
    for columns, part, known in _pieces(values, mask):
        is_unit, is_whole = (part >= 0) & (part <= 1), part == part.round()
        # from 2^24 on float32 holds nothing but integers, so that being one says nothing
        for kind, fits in enumerate((
            is_unit & is_whole, is_unit, (part >= 0) & (part < 2**24) & is_whole
        )):  # fmt: skip
            holds[kind, columns] &= (fits if known is None else fits | ~known).all(0)
        seen[columns] |= True if known is None else known.any(0)
    first = torch.where(seen, holds.to(torch.uint8).argmax(0), len(kinds) - 1)
    return [kinds[kind] for kind in first.tolist()]


def _pieces(
    values: Tensor | MappedRows, mask: Tensor | None
) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """All values in pieces of some columns and rows, with those of the mask."""
    # in a file nothing is missing
    chunks = values.chunks() if isinstance(values, MappedRows) else iter([values])
    for chunk in chunks:
        width = max(1, AT_ONCE // max(1, len(chunk)))
        for start in range(0, chunk.shape[1], width):
            columns = slice(start, start + width)
            yield columns, chunk[:, columns], None if mask is None else mask[:, columns]


def resolved_categories(options: Options, stored: Stored) -> list[str] | None:
    """The option categorical with the labels that there are: another file is to be read with the
    same codes.
    """
    if not options.categorical:
        return None
    return [f"{name}={'|'.join(labels)}" for name, labels in stored.categories.items()]
