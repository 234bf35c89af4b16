"""Which examples train, which choose among trainings, and which test."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from lowerbound.data.dataset import Split
from lowerbound.data.mapped import MappedRows
from lowerbound.data.options import Options, Splits


def split_examples(
    values: torch.Tensor | MappedRows,
    beside: tuple[torch.Tensor | None, ...],
    parts: Mapping[str, int] | None,
    options: Options,
    where: str,
) -> dict[str, Split]:
    """The splits by name.

    Args:
        values: of all examples, (n, *X).
        beside: what else is known of each, y, mask and factors, (n, ...), or None.
        parts: sizes of the published splits in the order of the file, by name; None where the
            source has none.
        options: which splits, and the seed by which examples are shared out where none are
            published.
        where: how the source is called.

    Raises:
        ValueError: too few examples.
    """
    rows = split_rows(len(values), parts, options.splits, options.seed, where)
    return {
        name: Split(
            values.rows(i) if isinstance(values, MappedRows) else values[i],
            *(None if part is None else part[i] for part in beside),
        )
        for name, i in rows.items()
    }


def split_rows(
    n: int, parts: Mapping[str, int] | None, splits: Splits, seed: int, where: str
) -> dict[str, torch.Tensor]:
    """Which of n examples each split holds, by name, int64, ascending; as
    :func:`split_examples`.
    """
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
    return {name: piece.sort().values for name, piece in zip(names, pieces, strict=True)}
