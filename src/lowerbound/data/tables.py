"""Tables of numbers: .csv by the standard library, and .parquet by pyarrow, an extra.

Every column is an entry of x, (n, columns), but for one that may hold labels. Nothing is guessed: a cell that is missing
or holds text is refused by its row and column, and what to put there is the user's to say.

In a .csv, cells are separated by commas and numbers written with a decimal point; the first row is a header where a cell
of it is text, and without one the columns are named 1, 2, ...; rows are counted from 1, the header included.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.dataset import Stored
from lowerbound.memory import check_fits
from lowerbound.messages import first_line, unknown

DIGITS = frozenset("0123456789+- ")
NUMERIC = DIGITS | frozenset(".eE")  # what Python would read besides, as in nan, 1_000 or ١, is no number in a table
MISSING = ("", "?", "na", "n/a", "nan", "null", "none")
EXACT = 2**53  # integers beyond it are no longer exact in float64


def read(path: Path, labels: str | None = None) -> Stored:
    """The numbers in a .csv or .parquet file: integers where all are, and floating point otherwise.

    Args:
        path: the file.
        labels: the name of the column that holds labels, which may be text.

    Raises:
        ValueError: the file is empty or damaged; a cell is missing or holds text; rows differ in length; there is no such
            column; or the table does not fit into memory.
        ImportError: a .parquet file is to be read, and pyarrow is not installed.
    """
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes)")
    x, y = (_csv if path.suffix.lower() == ".csv" else _parquet)(path, labels)
    return Stored(x, y, source=str(path))


def _csv(path: Path, labels: str | None) -> tuple[NDArray[Any], NDArray[Any] | None]:
    with path.open("rb") as stream:
        blocks = iter(lambda: stream.read(2**20), b"")
        lines = 1 + sum(block.count(b"\n") + block.count(b"\r") - block.count(b"\r\n") for block in blocks)
    try:
        with path.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.reader(text, strict=True)
            return _rows(path, ((reader.line_num, row) for row in reader if row), labels, lines)
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no UTF-8 text; save it as UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"{path} cannot be read as .csv: row {reader.line_num}: {first_line(error)}") from None


def _rows(
    path: Path, rows: Iterator[tuple[int, list[str]]], labels: str | None, lines: int
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    first = next(rows, (0, []))
    if not first[1]:
        raise ValueError(f"{path} holds no rows")
    header = any(_is_text(cell) for cell in first[1])
    names = [cell.strip() if header else str(i) for i, cell in enumerate(first[1], 1)]
    label = _position(path, names, labels)
    columns = [name for i, name in enumerate(names) if i != label]
    check_fits(lines * len(columns) * 8, str(path))
    x = np.empty((lines, len(columns)))
    texts: list[str] = []
    n, integers = 0, True
    for number, row in rows if header else chain([first], rows):
        if len(row) != len(names):
            raise ValueError(f"{path}: row {number} has {len(row)} cells, and row {first[0]} has {len(names)}")
        if label is not None:
            texts.append(row.pop(label).strip())
            if not texts[-1]:
                raise ValueError(f"{path}: row {number}, column {names[label]!r} (the label) is empty")
        used = set("".join(row))
        try:
            if not used <= NUMERIC:
                raise ValueError
            x[n] = [float(cell) for cell in row]
        except ValueError:
            raise ValueError(f"{path}: row {number}, {_worst(columns, row)}") from None
        integers = integers and used <= DIGITS
        n += 1
    x = x[:n]
    if integers and n and (np.abs(x) < EXACT).all():
        return x.astype(np.int64), _codes(texts) if texts else None
    return x, _codes(texts) if texts else None


def _position(path: Path, names: Sequence[str], labels: str | None) -> int | None:
    if labels is None:
        return None
    if labels not in names:
        raise ValueError(f"{path}: {unknown('column', labels, names)}; choose with labels= (--data.labels)")
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
    name, cell = next((name, cell) for name, cell in zip(columns, row, strict=True) if not _is_number(cell))
    if not cell.strip():
        return f"column {name!r} is empty; fill it in, or remove the row or the column"
    if not _is_text(cell):
        return f"column {name!r} is missing ({cell!r}); fill it in, or remove the row or the column"
    hint = (
        "cells are separated by commas" if ";" in cell or "\t" in cell else f"text can only be labels: labels={name!r}"
    )
    return f"column {name!r} holds the text {cell[:40]!r}, and numbers are needed; {hint}"


def _codes(labels: Sequence[Any]) -> NDArray[Any]:
    """Labels as numbers where all are numbers, and otherwise as text."""
    words = [str(label) for label in labels]
    if all(_is_number(word) for word in words):
        return (
            np.array([float(w) for w in words]) if set("".join(words)) - DIGITS else np.array([int(w) for w in words])
        )
    return np.array(words)


def _parquet(path: Path, labels: str | None) -> tuple[NDArray[Any], NDArray[Any] | None]:
    try:
        from pyarrow import ArrowException, parquet, types
    except ImportError:
        raise ImportError(f"{path}: .parquet is read by pyarrow, an extra: pip install 'lowerbound[parquet]'") from None
    try:
        with parquet.ParquetFile(path) as file:
            check_fits(file.metadata.num_rows * file.metadata.num_columns * 8, str(path))
            table = file.read()
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as .parquet: {first_line(error)}") from None
    names = table.column_names
    label = _position(path, names, labels)
    for name, column in zip(names, table.columns, strict=True):
        missing = column.is_null(nan_is_null=True).to_numpy()
        if missing.any():
            raise ValueError(
                f"{path}: row {int(missing.argmax()) + 1}, column {name!r} is missing; fill it in or remove it"
            )
    taken = [i for i in range(len(names)) if i != label]
    kinds = [table.columns[i].type for i in taken]
    for i, kind in zip(taken, kinds, strict=True):
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
            raise ValueError(
                f"{path}: row 1, column {names[i]!r} holds {str(table.columns[i][0])[:40]!r} of type {kind}, and numbers "
                f"are needed; text can only be labels: labels={names[i]!r}"
            )
    integers = not any(types.is_floating(kind) or types.is_uint64(kind) for kind in kinds)  # int64 holds not all uint64
    x = np.empty((len(table), len(taken)), np.int64 if integers else np.float64)
    for j, i in enumerate(taken):
        x[:, j] = table.columns[i].to_numpy()
    return x, None if label is None else _codes(table.columns[label].to_pylist())
