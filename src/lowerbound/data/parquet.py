"""Tables in .parquet files, by pyarrow, an extra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lowerbound.data.header import FILL, Cells, Header, Wanted, codes
from lowerbound.data.no_numbers import collected, remedy
from lowerbound.utils.memory import check_fits
from lowerbound.utils.messages import first_line


def read_parquet(path: Path, wanted: Wanted) -> Cells:
    """The cells of a .parquet file.

    Raises:
        ValueError: it is damaged, or a cell is missing or holds no number.
        ImportError: pyarrow is not installed.
    """
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
    header, classes = Header.of(path, table.column_names, wanted), wanted.classes
    columns, places = header.columns, header.places
    known: dict[int, NDArray[np.bool_]] = {}
    for i in (*places, *([] if header.label is None else [header.label])):
        missing = table.columns[i].is_null(nan_is_null=True).to_numpy()
        known[i] = ~missing
        if missing.any() and (not wanted.takes_missing or i == header.label):
            name = header.names[i]
            if missing.all():
                raise ValueError(
                    f"{path}: the column {name!r} holds no value (type {table.columns[i].type}); "
                    f'leave it out: ignore=[{name!r}] (--data.ignore "[{name}]")'
                )
            raise ValueError(
                f"{path}: row {int(missing.argmax()) + 1}, column {name!r} is missing; {FILL}"
            )
    for name, i in zip(columns, places, strict=True):
        if name in classes:
            classes[name].cells += [
                "" if cell is None else str(cell) for cell in table.columns[i].to_pylist()
            ]
    numbers = {i: table.columns[i] for name, i in zip(columns, places, strict=True)
               if name not in classes}  # fmt: skip
    for i, column in numbers.items():
        # of exact decimals float64 holds 15 digits
        if types.is_decimal(column.type) or types.is_null(column.type):
            numbers[i] = column.cast(pa.float64())
    kinds = {i: column.type for i, column in numbers.items()}
    unfit = [
        i
        for i, kind in kinds.items()
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))
    ]
    if unfit:
        cells = ((1 + k, header.names[i], str(cell)) for i in unfit
                 for k, cell in enumerate(numbers[i].to_pylist()) if cell is not None)  # fmt: skip
        texts = collected(header.names, cells)
        first = unfit[0]
        cell = next((c for c in numbers[first].to_pylist() if c is not None), None)
        raise ValueError(
            f"{path}: row 1, column {header.names[first]!r} holds {str(cell)[:40]!r} of "
            f"type {kinds[first]}, and numbers are needed; {remedy(texts)}"
        )
    integers = not any(
        types.is_floating(kind) or types.is_uint64(kind) for kind in kinds.values()
    )  # int64 holds not all uint64
    x = np.zeros((len(table), len(places)), np.int64 if integers else np.float64)
    for j, i in enumerate(places):
        if i in numbers:
            column = numbers[i].filter(pa.array(known[i])) if wanted.takes_missing else numbers[i]
            x[known[i], j] = column.to_numpy()
    mask = np.stack([known[i] for i in places], 1) if wanted.takes_missing else None
    y = None if header.label is None else codes(table.columns[header.label].to_pylist())
    return x, y, mask, header
