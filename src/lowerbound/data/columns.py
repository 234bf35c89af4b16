"""Where each column of a table lies, and which labels its classes have."""

from __future__ import annotations

import torch
from torch.distributions.constraints import Constraint

from lowerbound.data.dataset import Stored
from lowerbound.data.mapped import MappedRows
from lowerbound.data.options import Options
from lowerbound.supports import BINARY, INTEGER, REAL, Levels, smallest, union


def column_supports(
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
    supports: list[Constraint] = []
    for j, column in enumerate(values.unbind(1)):
        observed = column if mask is None else column[mask[:, j]]
        name = stored.columns[j] if stored.columns else ""
        if name in stored.categories:
            supports.append(Levels(len(stored.categories[name])))
        elif isinstance(support, Levels) or not len(observed):
            supports.append(support)
        else:
            supports.append(_narrowest(observed, support))
    return tuple(supports)


def _supports_of_a_file(values: MappedRows, support: Constraint) -> tuple[Constraint, ...]:
    """The same for columns in a file, none of which holds classes."""
    if isinstance(support, Levels):
        return (support,) * values.shape[1]
    supports: list[Constraint] = [BINARY] * values.shape[1]
    for chunk in values.chunks():
        for j, seen in enumerate(supports):
            if seen is not REAL and seen != support:  # which no column can exceed
                supports[j] = union([seen, _narrowest(chunk[:, j], support)])
        if all(seen is REAL or seen == support for seen in supports):
            break
    return tuple(supports)


def _narrowest(values: torch.Tensor, support: Constraint) -> Constraint:
    """The smallest set that holds a column, within that of the whole table: whole numbers stay that
    below zero.
    """
    narrowest = smallest(values)
    return INTEGER if narrowest is REAL and support is INTEGER else narrowest


def resolved_categories(options: Options, stored: Stored) -> list[str] | None:
    """The option categorical with the labels that there are: another file is to be read with the
    same codes.
    """
    if not options.categorical:
        return None
    return [f"{name}={'|'.join(labels)}" for name, labels in stored.categories.items()]
