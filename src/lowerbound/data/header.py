"""What of a table is asked for, and which column of a file is what: shared by .csv and
.parquet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.data.names import are_numbers, check_distinct, positions, say_by_position
from lowerbound.utils.messages import unknown

DIGITS = frozenset("0123456789+- ")
NUMERIC = DIGITS | frozenset(
    ".eE"
)  # what Python would read besides, as in nan, 1_000 or ١, is no number in a table
MISSING = ("", "?", "na", "n/a", "nan", "null", "none")
FILL = (
    "fill it in, remove the row, leave out the column (--data.ignore), or let "
    "missing='marginalise' (--data.missing marginalise) leave missing cells out of every density"
)


@dataclass
class Classes:
    """The classes in one column: their labels in the order that the user gives, where one is given,
    and the cell of each row.
    """

    name: str
    order: tuple[str, ...] = ()
    cells: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, option: str) -> Classes:
        """From "name", or "name=first|second"."""
        name, equals, labels = option.partition("=")
        order = tuple(labels.split("|")) if equals else ()
        if equals and (len(order) < 2 or len(set(order)) < len(order)):
            raise ValueError(
                f"categorical={option!r}: at least 2 labels are needed, each once, as in "
                "size=small|large"
            )
        return cls(name, order)

    @property
    def labels(self) -> tuple[str, ...]:
        """In the order of their levels: as given; else by value where all are numbers, and by the
        alphabet where not.
        """
        if self.order:
            return self.order
        words = {word for word in self.cells if word.lower() not in MISSING}
        return tuple(
            sorted(words, key=(lambda w: (float(w), w)) if all(map(is_number, words)) else str)
        )

    def values(self, where: str) -> NDArray[Any]:
        """The level of each row, l / (L - 1), and 0 where it is missing."""
        if len(self.labels) < 2:
            raise ValueError(
                f"{where}: column {self.name!r} holds {len(self.labels)} class, and at least 2 are "
                "needed"
            )
        places = {label: i for i, label in enumerate(self.labels)}
        for word in self.cells:
            if word not in places and word.lower() not in MISSING:
                raise ValueError(
                    f"{where}: column {self.name!r}: {unknown('class', word, self.labels)}"
                )
        return np.array([places.get(word, 0) / (len(places) - 1) for word in self.cells])


@dataclass(frozen=True)
class Wanted:
    """What of a table is asked for.

    Args:
        labels: the column of labels, or None.
        columns: those of x, in their order; None takes all others.
        ignore: those that are no part of x.
        takes_missing: whether cells may be missing.
        classes: the columns that hold classes, by name.
    """

    labels: str | None
    columns: Sequence[str] | None
    ignore: Sequence[str]
    takes_missing: bool
    classes: Mapping[str, Classes]


@dataclass(frozen=True)
class Header:
    """Which columns of a file are what.

    Args:
        names: of all columns of the file.
        label: the place of the labels, or None.
        places: of the columns of x, in their order.
        columns: their names.
    """

    names: Sequence[str]
    label: int | None
    places: Sequence[int]
    columns: Sequence[str]

    @classmethod
    def of(cls, path: Path, names: Sequence[str], wanted: Wanted) -> Header:
        """By the names of a file's columns.

        Raises:
            ValueError: a name that stands twice, a column that is not there, or is to be two
                things.
        """
        check_distinct(names, str(path))
        label = _position(path, names, wanted.labels)
        rest = [i for i in range(len(names)) if i != label]
        both = {*(wanted.columns or ()), *wanted.classes, wanted.labels} & set(wanted.ignore)
        if both:
            raise ValueError(
                f"{path}: the column {sorted(map(str, both))[0]!r} is to be ignored and to be "
                "used; name it once"
            )
        if wanted.columns is not None:
            if wanted.labels in wanted.columns:
                raise ValueError(
                    f"{path}: the column {wanted.labels!r} holds labels, so it is no part of x; "
                    "leave it out of columns (--data.columns)"
                )
            check_distinct(wanted.columns, "columns (--data.columns)")
            is_headless = are_numbers(names) and not set(wanted.columns) <= set(names)
            if is_headless and len(rest) == len(wanted.columns):
                say_by_position(str(path), names, wanted.columns)
                return cls(names, label, rest, list(wanted.columns))
            places = positions(wanted.columns, names, str(path))
            return cls(names, label, places, list(wanted.columns))
        for name in wanted.ignore:  # beside columns it says what another file may have besides
            if name not in names:
                raise ValueError(
                    f"{path}: {unknown('column', name, names)}; choose with ignore= (--data.ignore)"
                )
        places = [i for i in rest if names[i] not in wanted.ignore]
        return cls(names, label, places, [names[i] for i in places])

    @property
    def left_out(self) -> tuple[str, ...]:
        """The columns that are neither x nor labels."""
        used = {*self.places, self.label}
        return tuple(name for i, name in enumerate(self.names) if i not in used)


def _position(path: Path, names: Sequence[str], labels: str | None) -> int | None:
    if labels is None:
        return None
    if labels not in names:
        raise ValueError(
            f"{path}: {unknown('column', labels, names)}; choose with labels= (--data.labels)"
        )
    return list(names).index(labels)


def is_number(cell: str) -> bool:
    """Whether a cell is a number as it is written in a table.

    Example:
        >>> is_number("-1.5e3"), is_number("1_000"), is_number("inf")
        (True, False, False)
    """
    try:
        float(cell)
    except ValueError:
        return False
    return set(cell) <= NUMERIC


def codes(labels: Sequence[Any]) -> NDArray[Any]:
    """Labels as numbers where all are numbers, and otherwise as text."""
    words = [str(label) for label in labels]
    if all(is_number(word) for word in words):
        return (
            np.array([float(w) for w in words])
            if set("".join(words)) - DIGITS
            else np.array([int(w) for w in words])
        )
    return np.array(words)


Cells = tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any] | None, Header]
"""x, the labels, the mask where missing cells are taken, and which columns those are."""
