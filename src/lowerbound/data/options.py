"""How data are read, split and preprocessed: the arguments of :func:`lowerbound.data.load` that
travel together, checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from lowerbound.data.mapped import Memory
from lowerbound.shapes import Shape
from lowerbound.utils.messages import unknown

Splits = Literal["train_valid_test", "train_test", "all"]
Binarize = Literal["dynamic", "threshold"]
Missing = Literal["refuse", "marginalise"]
Channels = Literal["first", "last"]
Dtype = Literal["auto", "float64"]

OF_FILES = ("array", "labels", "factors", "size", "columns", "ignore")
"""Which options say how a file is read, and are none of arrays in memory."""

LISTS = ("size", "categorical", "columns", "ignore", "classes", "strip")
"""Which options stand as lists in the record."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The arguments of :func:`lowerbound.data.load` but for the source, in the order of the record.

    They are explained there, and have their defaults there; those that only files have are None
    here, for arrays in memory.

    Raises:
        ValueError: a word that is unknown, or a strip that is no pair.

    Example:
        >>> import lowerbound as lb
        >>> lb.data.load("digits").options["levels"]  # what levels=None turned out to mean
        17
    """

    splits: Splits
    binarize: Binarize | None
    levels: int | Literal["none"] | None
    seed: int
    array: str | None = None
    labels: str | None = None
    factors: str | None = None
    size: Shape | None = None
    missing: Missing
    categorical: Sequence[str] | None = None
    columns: Sequence[str] | None = None
    ignore: Sequence[str] | None = None
    channels: Channels | None = None
    memory: Memory = "auto"
    dequantize: bool
    flip: bool
    shift: int
    classes: Sequence[str] | None
    strip: Sequence[int] | None
    labelled: int | None
    labelled_share: float | None
    dtype: Dtype = "auto"

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            object.__setattr__(self, name, plain(value))  # frozen for all others
        words = {
            "splits": Splits, "binarize": Binarize, "missing": Missing, "memory": Memory,
            "channels": Channels, "dtype": Dtype,
        }  # fmt: skip
        for name, valid in words.items():
            value = getattr(self, name)
            if value is not None and value not in get_args(valid):
                raise ValueError(unknown(f"value of {name}", str(value), get_args(valid)))
        if self.strip is not None and len(self.strip) != 2:
            raise ValueError(
                f"strip is {list(self.strip)}: it must be the first and the last pixel column, as "
                "in [12, 15]"
            )

    def record(self, is_of_file: bool, is_mapped: bool, **resolved: Any) -> dict[str, Any]:
        """What stands in config.yaml, so that the data can be loaded again.

        Args:
            is_of_file: whether the data have a name or a path.
            is_mapped: whether their values stay in their file.
            resolved: by name, what options turned out to mean for these data, so that another file
                of the same kind is read on the same scale.
        """
        options = {**vars(self), "memory": "map", **resolved}
        absent = (() if is_of_file else OF_FILES) + (() if is_mapped else ("memory",))
        return {
            name: list(value) if name in LISTS and value is not None else value
            for name, value in options.items()
            if name not in absent
        }


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
