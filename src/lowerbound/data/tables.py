"""Tables of numbers: .csv by the standard library, and .parquet by pyarrow, an extra.

Every column is an entry of x, (n, columns), but for one that may hold labels. Nothing is guessed: a
cell that is missing or holds text is refused by its row and column, unless the user has said that
missing cells are to be marginalised, or which columns hold classes.

Columns may be chosen by name, in another order than the file's, so that a table is read as the one
that a model was trained on; the cells of a column that is left out may hold anything.

In a .csv, cells are separated by commas and numbers written with a decimal point; the first row is
a header where a cell of it is text, and without one the columns are named 1, 2, ...; rows are
counted from 1, the header included.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.data.dataset import Stored
from lowerbound.data.header import (
    DIGITS,
    FILL,
    MISSING,
    NUMERIC,
    Cells,
    Classes,
    Header,
    Wanted,
    codes,
    is_number,
)
from lowerbound.data.names import positions
from lowerbound.data.no_numbers import collected, remedy
from lowerbound.data.parquet import read_parquet
from lowerbound.data.spreadsheets import as_text
from lowerbound.utils.memory import check_fits
from lowerbound.utils.messages import first_line, some, unknown

NEAR = 1e-3  # of a level: what rounding to float32 leaves
EXACT = 2**53  # integers beyond it are no longer exact in float64


def read(
    path: Path,
    labels: str | None = None,
    missing: str = "refuse",
    categorical: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
) -> Stored:
    """The numbers in a .csv or .parquet file: integers where all are, and floating point otherwise.

    Args:
        path: the file.
        labels: the name of the column that holds labels, which may be text.
        missing: "marginalise" takes missing cells, of which the mask then tells.
        categorical: names of columns that hold classes, or "name=first|second" to give their order.
        columns: the columns of x, by name, in this order; None takes all that are nothing else.
        ignore: columns that are no part of x.

    Raises:
        ValueError: the file is empty or damaged; a cell is missing or holds text; rows differ in
            length; there is no such column, or two of one name; or the table does not fit into
            memory.
        ImportError: a .parquet file is to be read, and pyarrow is not installed.
    """
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes)")
    classes = {column.name: column for column in map(Classes.of, categorical or ())}
    wanted = Wanted(
        labels,
        None if columns is None else tuple(map(str, columns)),
        tuple(map(str, ignore or ())),
        missing == "marginalise",
        classes,
    )
    reader = _csv if path.suffix.lower() == ".csv" else read_parquet
    x, y, mask, header = reader(path, wanted)
    taken = list(header.columns)
    for name in classes:
        if name not in taken:
            raise ValueError(
                f"{path}: {unknown('column', name, taken)}; choose with categorical= "
                "(--data.categorical)"
            )
    if classes:
        x = x.astype(np.float64)
    for name, column in classes.items():
        x[:, taken.index(name)] = column.values(str(path))
    categories = {name: column.labels for name, column in classes.items()}
    return Stored(
        x,
        y,
        mask,
        columns=tuple(taken),
        categories=categories,
        source=str(path),
        left_out=header.left_out,
    )


def text(
    x: NDArray[Any],
    columns: Sequence[str] | None,
    categories: Mapping[str, Sequence[str]],
    labels: tuple[str, Sequence[str]] | None = None,
    decimals: Sequence[int | None] | None = None,
    copied: Sequence[Sequence[str | None]] | None = None,
    formulas: bool = False,
) -> str:
    """A table as .csv: a header, and a row an example; classes by their labels, numbers with as
    many decimals as their column has.

    Args:
        x: (n, d).
        columns: the names of the columns, or None for 1, 2, ...
        categories: the labels of columns that hold classes.
        labels: a last column that is no part of x, its name and its n cells.
        decimals: of each column, as on the card of the data that it imitates; None for as many
            digits as tell a value from its neighbours.
        copied: (n, d), the text of cells that are written as it is, and None of all others.
        formulas: leave cells that a spreadsheet would run as they are; otherwise they are made
            text.

    Raises:
        ValueError: a value of a column of classes that is none of its levels.

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
        >>> print(text(np.array([[1.7e9, 2.0]]), None, {}, decimals=[0, 2]), end="")
        1,2
        1700000000,2.00
    """
    names = list(columns or map(str, range(1, x.shape[1] + 1)))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    safe: Callable[[str], str] = str if formulas else as_text
    writer.writerow(map(safe, [*names, labels[0]] if labels else names))
    labels_of = [categories.get(name) for name in names]
    places = list(decimals or [None] * len(names))
    for i, row in enumerate(x):
        cells = [
            _label(name, classes, float(v)) if classes else _number(v, place)
            for name, v, classes, place in zip(names, row, labels_of, places, strict=True)
        ]
        if copied is not None:
            cells = [
                ours if cell is None else cell for ours, cell in zip(cells, copied[i], strict=True)
            ]
        writer.writerow(map(safe, [*cells, labels[1][i]] if labels else cells))
    return stream.getvalue()


def _label(column: str, classes: Sequence[str], value: float) -> str:
    """The label of a level; of two classes also of a probability, the more probable one."""
    level = value * (len(classes) - 1)
    is_level = abs(level - round(level)) < NEAR or len(classes) == 2
    if not is_level or not 0 <= round(level) < len(classes):
        raise ValueError(
            f"column {column!r} holds classes ({some(classes)}), and {value:.3g} is none of them, "
            "as the mean of several is none; take a draw in the place of a mean, or write an array "
            "(.npy)"
        )
    return classes[round(level)]


def _number(value: np.floating, decimals: int | None) -> str:
    if decimals is None or not np.isfinite(value):
        return np.format_float_positional(value, trim="-")
    return f"{round(float(value), decimals) + 0.0:.{decimals}f}"  # + 0.0: no minus before a zero


def cells_of(path: Path, columns: Sequence[str]) -> list[list[str]]:
    """The cells of some columns of a .csv that has been read before, as they are written.

    Args:
        path: the file.
        columns: their names, in the order that is wanted; of a file without a header 1, 2, ...
    """
    with _numbered_rows(path) as numbered:
        rows = [row for _, row in numbered]
    is_named = _has_header(rows[0])
    names = [cell.strip() if is_named else str(i) for i, cell in enumerate(rows[0], 1)]
    places = positions(columns, names, str(path))
    return [[row[place] for place in places] for row in rows[is_named:]]


def _csv(path: Path, wanted: Wanted) -> Cells:
    with path.open("rb") as stream:
        blocks = iter(lambda: stream.read(2**20), b"")
        lines = 1 + sum(
            block.count(b"\n") + block.count(b"\r") - block.count(b"\r\n") for block in blocks
        )
    try:
        with _numbered_rows(path) as rows:
            return _rows(path, rows, lines, wanted)
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no UTF-8 text; save it as UTF-8") from None


@contextmanager
def _numbered_rows(path: Path) -> Iterator[Iterator[tuple[int, list[str]]]]:
    """The rows of a .csv that hold anything, with their numbers."""
    with path.open(newline="", encoding="utf-8-sig") as text:
        reader = csv.reader(text, strict=True)
        try:
            yield ((reader.line_num, row) for row in reader if row)
        except csv.Error as error:
            raise ValueError(
                f"{path} cannot be read as .csv: row {reader.line_num}: {first_line(error)}"
            ) from None


def _has_header(first: Sequence[str]) -> bool:
    return any(_is_text(cell) for cell in first)


def _rows(path: Path, rows: Iterator[tuple[int, list[str]]], lines: int, wanted: Wanted) -> Cells:
    first = next(rows, (0, []))
    if not first[1]:
        raise ValueError(f"{path} holds no rows")
    is_named = _has_header(first[1])
    names = [cell.strip() if is_named else str(i) for i, cell in enumerate(first[1], 1)]
    header, classes = Header.of(path, names, wanted), wanted.classes
    columns, places, label = header.columns, header.places, header.label
    check_fits(lines * len(columns) * 8, str(path))
    x = np.empty((lines, len(columns)))
    mask = np.ones((lines, len(columns)), bool) if wanted.takes_missing else None
    texts: list[str] = []
    n, integers = 0, True
    for number, cells in rows if is_named else chain([first], rows):
        if len(cells) != len(names):
            raise ValueError(
                f"{path}: row {number} has {len(cells)} cells, and row {first[0]} has {len(names)}"
                + separated(first[1], cells)
            )
        if label is not None:
            texts.append(cells[label].strip())
            if not texts[-1]:
                raise ValueError(
                    f"{path}: row {number}, column {names[label]!r} (the label) is empty"
                )
        row = [cells[i] for i in places]
        if mask is not None:
            mask[n] = [cell.strip().lower() not in MISSING for cell in row]
        for j, name in enumerate(columns if classes else ()):
            if name in classes:
                if mask is None and row[j].strip().lower() in MISSING:
                    raise ValueError(f"{path}: row {number}, {_worst(path, [name], [row[j]])}")
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
            raise ValueError(
                f"{path}: row {number}, {_worst(path, columns, row, header, wanted)}"
            ) from None
        integers = integers and used <= DIGITS
        n += 1
    x, mask = x[:n], None if mask is None else mask[:n]
    if integers and n and (np.abs(x) < EXACT).all():
        x = x.astype(np.int64)
    return x, codes(texts) if texts else None, mask, header


def _is_text(cell: str) -> bool:
    return not is_number(cell) and cell.strip().lower() not in MISSING


def _worst(
    path: Path,
    columns: Sequence[str],
    row: Sequence[str],
    header: Header | None = None,
    wanted: Wanted | None = None,
) -> str:
    """What is wrong with a row, by its first cell that is no number, and with which other columns.

    Args:
        path: the file.
        columns: of these cells.
        row: the cells.
        header: of the file, to look at all columns; None for cells of classes.
        wanted: what of the table is asked for.
    """
    name, cell = next(
        (name, cell) for name, cell in zip(columns, row, strict=True) if not is_number(cell)
    )
    if not cell.strip():
        return f"column {name!r} is empty; {FILL}"
    if not _is_text(cell):
        return f"column {name!r} is missing ({cell!r}); {FILL}"
    hint = separated([name], [cell])
    if not hint and header is not None and wanted is not None:
        with _numbered_rows(path) as rows:
            hint = "; " + remedy(collected(columns, _cells_of_text(rows, header, wanted)))
    return f"column {name!r} holds the text {cell[:40]!r}, and numbers are needed{hint}"


def _cells_of_text(
    rows: Iterator[tuple[int, list[str]]], header: Header, wanted: Wanted
) -> Iterator[tuple[int, str, str]]:
    """Row, column and text of every cell of x that ought to be a number."""
    places = [
        (name, i)
        for name, i in zip(header.columns, header.places, strict=True)
        if name not in wanted.classes
    ]
    for k, (number, cells) in enumerate(rows):
        is_whole = len(cells) == len(header.names)  # another is refused where it is read
        if not is_whole or (k == 0 and _has_header(cells)):
            continue
        yield from ((number, name, cells[i]) for name, i in places if _is_text(cells[i]))


def separated(first: Sequence[str], cells: Sequence[str]) -> str:
    """What to do with a table whose cells something else than a comma separates; "" for others."""
    mark = next((m for m in (";", "\t") if any(m in cell for cell in (*first, *cells))), None)
    if mark is None:
        return ""
    decimal = ", decimal=','" if mark == ";" else ""
    return (
        "; cells are separated by commas, and numbers have a decimal point: save it so, as "
        f"pandas.read_csv(path, sep={mark!r}{decimal}).to_csv(path, index=False) does"
    )
