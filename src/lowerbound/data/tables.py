"""Tables of numbers: .csv by the standard library, and .parquet by pyarrow, an extra.

Every column is an entry of x, (n, columns), but for one that may hold labels. Nothing is guessed: a
cell that is missing or holds text is refused by its row and column, unless the user has said that
missing cells are to be marginalised, or which columns hold classes.

In a .csv, cells are separated by commas and numbers written with a decimal point; the first row is
a header where a cell of it is text, and without one the columns are named 1, 2, ...; rows are
counted from 1, the header included.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.data.dataset import Stored
from lowerbound.data.spreadsheets import as_text
from lowerbound.utils.memory import check_fits
from lowerbound.utils.messages import first_line, unknown

DIGITS = frozenset("0123456789+- ")
NUMERIC = DIGITS | frozenset(
    ".eE"
)  # what Python would read besides, as in nan, 1_000 or ١, is no number in a table
MISSING = ("", "?", "na", "n/a", "nan", "null", "none")
FILL = (
    "fill it in, remove the row or the column, or let missing='marginalise' (--data.missing "
    "marginalise) leave missing cells out of every density"
)
EXACT = 2**53  # integers beyond it are no longer exact in float64


Cells = tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any] | None, list[str]]
"""x, the labels, the mask where missing cells are taken, and the names of the columns of x."""


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
            sorted(words, key=(lambda w: (float(w), w)) if all(map(_is_number, words)) else str)
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


def read(
    path: Path,
    labels: str | None = None,
    missing: str = "refuse",
    categorical: Sequence[str] | None = None,
) -> Stored:
    """The numbers in a .csv or .parquet file: integers where all are, and floating point otherwise.

    Args:
        path: the file.
        labels: the name of the column that holds labels, which may be text.
        missing: "marginalise" takes missing cells, of which the mask then tells.
        categorical: names of columns that hold classes, or "name=first|second" to give their order.

    Raises:
        ValueError: the file is empty or damaged; a cell is missing or holds text; rows differ in
            length; there is no such column; or the table does not fit into memory.
        ImportError: a .parquet file is to be read, and pyarrow is not installed.
    """
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes)")
    classes = {column.name: column for column in map(Classes.of, categorical or ())}
    reader = _csv if path.suffix.lower() == ".csv" else _parquet
    x, y, mask, columns = reader(path, labels, missing == "marginalise", classes)
    for name in classes:
        if name not in columns:
            raise ValueError(
                f"{path}: {unknown('column', name, columns)}; choose with categorical= "
                "(--data.categorical)"
            )
    if classes:
        x = x.astype(np.float64)
    for name, column in classes.items():
        x[:, columns.index(name)] = column.values(str(path))
    categories = {name: column.labels for name, column in classes.items()}
    return Stored(x, y, mask, columns=tuple(columns), categories=categories, source=str(path))


def text(
    x: NDArray[Any],
    columns: Sequence[str] | None,
    categories: Mapping[str, Sequence[str]],
    labels: tuple[str, Sequence[str]] | None = None,
    formulas: bool = False,
) -> str:
    """A table as .csv: a header, and a row an example; classes by their labels.

    Args:
        x: (n, d).
        columns: the names of the columns, or None for 1, 2, ...
        categories: the labels of columns that hold classes.
        labels: a last column that is no part of x, its name and its n cells.
        formulas: leave cells that a spreadsheet would run as they are; otherwise they are made
            text.

    Example:
        >>> print(
        ...     text(
        ...         np.array([[0.5, 1.0], [2.0, 0.0]], np.float32),
        ...         ["size", "sex"],
        ...         {"sex": ["f", "m"]},
        ...     ),
        ...     end="",
        ... )
        size,sex
        0.5,m
        2,f
    """
    names = list(columns or map(str, range(1, x.shape[1] + 1)))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    safe: Callable[[str], str] = str if formulas else as_text
    writer.writerow(map(safe, [*names, labels[0]] if labels else names))
    labels_of = [categories.get(name) for name in names]
    for i, row in enumerate(x):
        cells = [
            classes[round(float(v) * (len(classes) - 1))]
            if classes
            else np.format_float_positional(v, trim="-")
            for v, classes in zip(row, labels_of, strict=True)
        ]
        writer.writerow(map(safe, [*cells, labels[1][i]] if labels else cells))
    return stream.getvalue()


def _csv(
    path: Path, labels: str | None, takes_missing: bool, classes: Mapping[str, Classes]
) -> Cells:
    with path.open("rb") as stream:
        blocks = iter(lambda: stream.read(2**20), b"")
        lines = 1 + sum(
            block.count(b"\n") + block.count(b"\r") - block.count(b"\r\n") for block in blocks
        )
    try:
        with path.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.reader(text, strict=True)
            return _rows(
                path,
                ((reader.line_num, row) for row in reader if row),
                labels,
                lines,
                takes_missing,
                classes,
            )
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no UTF-8 text; save it as UTF-8") from None
    except csv.Error as error:
        raise ValueError(
            f"{path} cannot be read as .csv: row {reader.line_num}: {first_line(error)}"
        ) from None


def _rows(
    path: Path,
    rows: Iterator[tuple[int, list[str]]],
    labels: str | None,
    lines: int,
    takes_missing: bool,
    classes: Mapping[str, Classes],
) -> Cells:
    first = next(rows, (0, []))
    if not first[1]:
        raise ValueError(f"{path} holds no rows")
    header = any(_is_text(cell) for cell in first[1])
    names = [cell.strip() if header else str(i) for i, cell in enumerate(first[1], 1)]
    label = _position(path, names, labels)
    columns = [name for i, name in enumerate(names) if i != label]
    check_fits(lines * len(columns) * 8, str(path))
    x = np.empty((lines, len(columns)))
    mask = np.ones((lines, len(columns)), bool) if takes_missing else None
    texts: list[str] = []
    n, integers = 0, True
    for number, row in rows if header else chain([first], rows):
        if len(row) != len(names):
            raise ValueError(
                f"{path}: row {number} has {len(row)} cells, and row {first[0]} has {len(names)}"
            )
        if label is not None:
            texts.append(row.pop(label).strip())
            if not texts[-1]:
                raise ValueError(
                    f"{path}: row {number}, column {names[label]!r} (the label) is empty"
                )
        if mask is not None:
            mask[n] = [cell.strip().lower() not in MISSING for cell in row]
        for j, name in enumerate(columns if classes else ()):
            if name in classes:
                if mask is None and row[j].strip().lower() in MISSING:
                    raise ValueError(f"{path}: row {number}, {_worst([name], [row[j]])}")
                classes[name].cells.append(row[j].strip())
                row[j] = "0"
        if mask is not None:
            for j in (~mask[n]).nonzero()[0]:
                row[j] = "0"
        used = set("".join(row))
        try:
            if not used <= NUMERIC:
                raise ValueError
            x[n] = [float(cell) for cell in row]
        except ValueError:
            raise ValueError(f"{path}: row {number}, {_worst(columns, row)}") from None
        integers = integers and used <= DIGITS
        n += 1
    x, mask = x[:n], None if mask is None else mask[:n]
    if integers and n and (np.abs(x) < EXACT).all():
        x = x.astype(np.int64)
    return x, _codes(texts) if texts else None, mask, columns


def _position(path: Path, names: Sequence[str], labels: str | None) -> int | None:
    if labels is None:
        return None
    if labels not in names:
        raise ValueError(
            f"{path}: {unknown('column', labels, names)}; choose with labels= (--data.labels)"
        )
    return list(names).index(labels)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return set(cell) <= NUMERIC


def _is_text(cell: str) -> bool:
    return not _is_number(cell) and cell.strip().lower() not in MISSING


def _worst(columns: Sequence[str], row: Sequence[str]) -> str:
    """What is wrong with a row, by its first cell that is no number."""
    name, cell = next(
        (name, cell) for name, cell in zip(columns, row, strict=True) if not _is_number(cell)
    )
    if not cell.strip():
        return f"column {name!r} is empty; {FILL}"
    if not _is_text(cell):
        return f"column {name!r} is missing ({cell!r}); {FILL}"
    hint = (
        "cells are separated by commas"
        if ";" in cell or "\t" in cell
        else f"text can only be classes (categorical=[{name!r}]) or labels (labels={name!r})"
    )
    return f"column {name!r} holds the text {cell[:40]!r}, and numbers are needed; {hint}"


def _codes(labels: Sequence[Any]) -> NDArray[Any]:
    """Labels as numbers where all are numbers, and otherwise as text."""
    words = [str(label) for label in labels]
    if all(_is_number(word) for word in words):
        return (
            np.array([float(w) for w in words])
            if set("".join(words)) - DIGITS
            else np.array([int(w) for w in words])
        )
    return np.array(words)


def _parquet(
    path: Path, labels: str | None, takes_missing: bool, classes: Mapping[str, Classes]
) -> Cells:
    try:
        import pyarrow as pa
        from pyarrow import ArrowException, parquet, types
    except ImportError:
        raise ImportError(
            f"{path}: .parquet is read by pyarrow, an extra: pip install 'lowerbound[parquet]'"
        ) from None
    try:
        with parquet.ParquetFile(path) as file:
            check_fits(file.metadata.num_rows * file.metadata.num_columns * 8, str(path))
            table = file.read()
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as .parquet: {first_line(error)}") from None
    names = table.column_names
    label = _position(path, names, labels)
    known = []
    for name, column in zip(names, table.columns, strict=True):
        missing = column.is_null(nan_is_null=True).to_numpy()
        known.append(~missing)
        if missing.any() and (not takes_missing or name == labels):
            raise ValueError(
                f"{path}: row {int(missing.argmax()) + 1}, column {name!r} is missing; {FILL}"
            )
    taken = [i for i in range(len(names)) if i != label]
    for i in taken:
        if names[i] in classes:
            classes[names[i]].cells += [
                "" if cell is None else str(cell) for cell in table.columns[i].to_pylist()
            ]
    numbers = [i for i in taken if names[i] not in classes]
    kinds = [table.columns[i].type for i in numbers]
    for i, kind in zip(numbers, kinds, strict=True):
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
            raise ValueError(
                f"{path}: row 1, column {names[i]!r} holds {str(table.columns[i][0])[:40]!r} of "
                f"type {kind}, and numbers are needed; text can only be classes "
                f"(categorical=[{names[i]!r}]) or labels (labels={names[i]!r})"
            )
    integers = not any(
        types.is_floating(kind) or types.is_uint64(kind) for kind in kinds
    )  # int64 holds not all uint64
    x = np.zeros((len(table), len(taken)), np.int64 if integers else np.float64)
    for j, i in enumerate(taken):
        if i in numbers:
            column = (
                table.columns[i].filter(pa.array(known[i])) if takes_missing else table.columns[i]
            )
            x[known[i], j] = column.to_numpy()
    mask = np.stack([known[i] for i in taken], 1) if takes_missing else None
    y = None if label is None else _codes(table.columns[label].to_pylist())
    return x, y, mask, [names[i] for i in taken]
