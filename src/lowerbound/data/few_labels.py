"""Data of which few examples are labelled: which keep their label, and how many of a batch do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from lowerbound.data.dataset import Split
from lowerbound.data.mapped import MappedRows


def few_labels(
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
        of_class = order[split.y[order] == c]
        y[of_class[:each]] = c
    return replace(split, y=y)


def check_share(share: float, split: Split) -> None:
    """Refuse a share of labelled examples in a batch that cannot be shown."""
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
