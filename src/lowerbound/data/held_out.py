"""Which examples are held out, as a digest: training examples must not come into the test split
because somebody edited the configuration.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from lowerbound.data.dataset import Dataset
from lowerbound.data.mapped import MappedRows

SPLIT = "split_sha256"  # what the digest is called in config.yaml, beside that of all data

DECIDE = (
    "seed", "binarize", "levels", "size", "missing", "dequantize", "strip", "categorical",
)  # fmt: skip
"""Which options decide what the held-out examples are: which they are, and what is shown of
them.
"""


def split_digest(data: Dataset) -> str:
    """The digest of the held-out examples: of every split but that for training, as stored, and of
    the options that make x of them.

    Options that nobody asked for do not count, so that one that a later version adds changes
    nothing.

    Example:
        >>> import lowerbound as lb
        >>> one, other = (lb.data.load("digits", seed=seed) for seed in (0, 1))
        >>> split_digest(one) == split_digest(lb.data.load("digits")) != split_digest(other)
        True
    """
    options = {name: data.options.get(name) for name in DECIDE}
    asked = {name: value for name, value in options.items() if value not in (None, False)}
    digest = hashlib.sha256(json.dumps(asked).encode())
    for name in sorted(data.splits.keys() - {"train"}):
        split = data.splits[name]
        digest.update(f"\n{name} {len(split)}\n".encode())
        values = split.values
        for piece in values.chunks() if isinstance(values, MappedRows) else [values]:
            digest.update(piece.contiguous().numpy().data)
    return digest.hexdigest()


def check_unchanged(card: Mapping[str, Any], data: Dataset, remedy: str) -> None:
    """Refuse data that are others, or are split otherwise, than a configuration has on record.

    Args:
        card: what the configuration says of its data.
        data: as they were loaded by it.
        remedy: what to do about it.

    Raises:
        ValueError: the data have changed since, or the options that split them.
    """
    if card.get("sha256") not in (None, data.sha256):
        raise ValueError(
            f"{data.name} holds other data than when this configuration was written: its SHA-256 "
            f"has changed; {remedy}"
        )
    if card.get(SPLIT) not in (None, split_digest(data)):
        raise ValueError(
            f"{data.name} is not split as when this configuration was written, so that examples of "
            "training would be tested on: data.seed, or another option under data, was changed in "
            f"it; put it back, or {remedy}"
        )
