"""Tables: what numbers are read, and which cell is refused, by its row and column."""

from __future__ import annotations

import datetime
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch

import lowerbound as lb
from lowerbound.supports import BINARY, COUNTS, INTEGER, REAL, UNIT
from lowerbound.utils import memory

RNG = np.random.default_rng(0)


def table(folder: Path, text: str, name: str = "mes données.csv") -> Path:
    (folder / name).write_bytes(text.encode())
    return folder / name


def values(path: Path, **options: object) -> list[list[float]]:
    rows: list[list[float]] = lb.data.load(path, splits="all", **options).examples("all").tolist()
    return rows


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a,b\n1,2\n3,4\n", [[1, 2], [3, 4]]),
        ("1,2\n3,4", [[1, 2], [3, 4]]),
        ("\ufeffa,b\r\n1.5,-2e3\r\n 3 ,+.5\r\n", [[1.5, -2000], [3, 0.5]]),
        ('"a, of x","b\nc"\n1,2\n\n"3",4\n\n', [[1, 2], [3, 4]]),
        ("x\r1\r2\r3\r", [[1], [2], [3]]),
        ("2019,population\n1,2\n", [[1, 2]]),
    ],
)
def test_the_numbers_of_a_csv(tmp_path: Path, text: str, rows: list[list[float]]) -> None:
    assert values(table(tmp_path, text)) == rows


@pytest.mark.parametrize(
    ("text", "support"),
    [
        ("a,b\n1,2\n", COUNTS),
        ("a,b\n-1,2\n", INTEGER),
        ("a,b\n1,2.0\n", COUNTS),
        ("a,b\n-1,2.0\n", REAL),
        ("a\n0\n1\n", BINARY),
        ("a\n0.25\n1\n", UNIT),
        ("a\n1e3\n", COUNTS),
        ("a\n1e3\n1.5\n", REAL),
    ],
)
def test_integers_where_all_are(tmp_path: Path, text: str, support: object) -> None:
    assert lb.data.load(table(tmp_path, text), splits="all").support == support


def test_a_csv_holds_the_same_as_the_array(tmp_path: Path) -> None:
    array = RNG.normal(size=(300, 7)).astype(np.float32)
    np.savetxt(tmp_path / "a.csv", array, delimiter=",", header=",".join("abcdefg"), comments="")
    np.save(tmp_path / "a.npy", array)
    from_text, from_array = (lb.data.load(tmp_path / name) for name in ("a.csv", "a.npy"))
    assert from_text.sha256 == from_array.sha256
    assert from_text.event_shape == (7,)


def test_levels_and_dequantisation_of_a_table(tmp_path: Path) -> None:
    data = lb.data.load(table(tmp_path, "a,b\n0,3\n2,1\n"), levels=4, splits="all", dequantize=True)
    assert torch.equal((data.examples("all") * 4).floor(), torch.tensor([[0.0, 3.0], [2.0, 1.0]]))


@pytest.mark.parametrize(
    ("column", "y"),
    [
        (("b", "a", "é"), [1, 0, 2]),
        (("7", "-3", "7"), [1, 0, 1]),
        (("0.5", "2", "1"), [0.5, 2, 1]),
        (("1", "x", "10"), [0, 2, 1]),
    ],
)
def test_a_column_of_labels_is_no_part_of_x(
    tmp_path: Path, column: tuple[str, ...], y: list[float]
) -> None:
    path = table(
        tmp_path,
        "v,espèce,w\n" + "".join(f"{i},{label},{i * i}\n" for i, label in enumerate(column)),
    )
    data = lb.data.load(path, labels="espèce", splits="all")
    assert data["all"].y.tolist() == y
    assert data.examples("all").tolist() == [[0, 0], [1, 1], [2, 4]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3,four\n", "row 3, column 'b' holds the text 'four'.*labels='b'"),
        ("1,2\n3,four\n", "row 2, column '2' holds the text 'four'"),
        ("a,b\n1,\n", "row 2, column 'b' is empty; fill it in"),
        ("a,b\n1, \n", "row 2, column 'b' is empty"),
        ("a,b\n\n1,2\n?,2\n", r"row 4, column 'a' is missing \('\?'\)"),
        ("a,b\n1,NaN\n", r"row 2, column 'b' is missing \('NaN'\)"),
        ("a,b\n1,1_000\n", "row 2, column 'b' holds the text '1_000'"),
        ("a,b\n1,inf\n", "row 2, column 'b' holds the text 'inf'"),
        ("a,b\n1,١\n", "row 2, column 'b' holds the text"),
        ("a,b\n1,1-2\n", "row 2, column 'b' holds the text '1-2'"),
        ("a,b\n1,1e999\n2,3\n4,5", "1 of 6 values that are NaN or infinite"),
        ("a,b\n1,2\n3\n", "row 3 has 1 cells, and row 1 has 2"),
        ("a,b\n1,2\n3,4,5\n", "row 3 has 3 cells, and row 1 has 2"),
        ("a;b\n1;2\n", "row 2, column 'a;b' holds the text '1;2'.*separated by commas"),
        ("", r"is empty \(0 bytes\)"),
        ("\n\n", "holds no rows"),
        ("a,b\n", "holds no examples"),
        ('a,b\n1,"2\n', "row 2: .*"),
        ("a,b\n1,x\x00\n", "row 2"),
    ],
)
def test_bad_cells_are_refused_by_row_and_column(tmp_path: Path, text: str, message: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(ValueError, match=message) as error:
        lb.data.load(path)
    assert "\n" not in str(error.value)
    assert "mes données.csv" in str(error.value)


def test_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("é,b\n1,2\n".encode("latin-1"))
    with pytest.raises(ValueError, match="a.csv is no UTF-8 text; save it as UTF-8"):
        lb.data.load(tmp_path / "a.csv")


def test_labels_must_be_there_and_whole(tmp_path: Path) -> None:
    path = table(tmp_path, "a,species\n1,x\n2,\n")
    with pytest.raises(
        ValueError, match="unknown column 'spcies'; did you mean 'species'.*--data.labels"
    ):
        lb.data.load(path, labels="spcies")
    with pytest.raises(ValueError, match=r"row 3, column 'species' \(the label\) is empty"):
        lb.data.load(path, labels="species")
    with pytest.raises(ValueError, match="holds no examples"):
        lb.data.load(table(tmp_path, "species\nx\n"), labels="species")
    with pytest.raises(
        ValueError,
        match="labels .* is for a .npz file or a .csv file or a .parquet file, and digits is",
    ):
        lb.data.load("digits", labels="species")


def test_real_tables_with_text_are_refused_by_their_first_cell(
    real_data: Path, tmp_path: Path
) -> None:
    rows = (real_data / "adult" / "adult.data").read_text()
    path = table(tmp_path, "age,workclass," + ",".join(f"c{i}" for i in range(13)) + "\n" + rows)
    with pytest.raises(ValueError, match="row 2, column 'workclass' holds the text ' State-gov'"):
        lb.data.load(path, labels="c12")


def test_all_columns_of_text_are_told_at_once_with_the_options_that_take_them(
    tmp_path: Path,
) -> None:
    rows = "".join(
        f"r{i},2024-01-{1 + i % 28:02},{('oslo', 'bergen')[i % 2]},{i},{i % 3 == 0}\n"
        for i in range(60)
    )
    path = table(tmp_path, "id,joined,city,v,member\n" + rows)
    with pytest.raises(ValueError, match="row 2, column 'id' holds the text 'r0', and") as error:
        lb.data.load(path)
    message = str(error.value)
    assert "4 columns hold no numbers (id, joined, city, member): 'joined' holds dates" in message
    assert '--data.categorical "[city,member]" --data.ignore "[id,joined]"' in message
    # and what it says can be done
    options = {"categorical": ["city", "member"], "ignore": ["id", "joined"]}
    data = lb.data.load(path, **options, splits="all")
    assert data.examples("all")[:3].tolist() == [[1, 0, 1], [0, 1, 0], [1, 2, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,when\n1,2024-01-31\n", r"'when' holds dates.*days since.*--data.ignore \"\[when\]"),
        ("a,when\n1,31.1.24\n2,\n", "'when' holds dates"),
        ("a,when\n1,2024-01-31T12:30:00\n", "'when' holds dates"),
        ('a,b\n1,"2,5"\n', r"'b' holds decimal commas: write a decimal point \(2.5\), as pandas"),
        ("a;b\n1,5;2,5\n", r"row 2 has 3 cells.*sep=';', decimal=','\)"),
        ("a;b\n1;2\n", "cells are separated by commas"),
        ("a\tb\n1\t2\n", r"sep='\\t'\)"),
    ],
)
def test_dates_and_decimal_commas_are_named_with_what_to_do(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        lb.data.load(table(tmp_path, text))
    assert "\n" not in str(error.value)


def test_a_table_larger_than_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = table(tmp_path, "a,b\n" + "1,2\n" * 1000)
    monkeypatch.setattr(memory, "physical_memory", lambda: 10_000)
    with pytest.raises(ValueError, match="mes données.csv needs .* GiB, this machine has"):
        lb.data.load(path)


def test_without_pyarrow_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'lowerbound\[parquet\]'") as error:
        lb.data.load(table(tmp_path, "PAR1", "a.parquet"))
    assert "\n" not in str(error.value)


class TestParquet:
    @pytest.fixture
    def write(self, tmp_path: Path):
        arrow = pytest.importorskip("pyarrow", reason="pyarrow is an extra")
        parquet = pytest.importorskip("pyarrow.parquet")

        def write(columns: dict[str, object]) -> Path:
            path = tmp_path / "mes données.parquet"
            parquet.write_table(arrow.table(columns), path)
            return path

        return write

    def test_the_numbers(self, write) -> None:
        floats = RNG.normal(size=50).astype(np.float32)
        data = lb.data.load(write({"a": floats, "b": np.arange(50)}), splits="all")
        assert data.support is REAL
        assert np.array_equal(data.examples("all").numpy(), np.stack([floats, np.arange(50)], 1))
        assert lb.data.load(write({"a": [1, 2, 3], "b": [True, False, True]})).support is COUNTS
        assert lb.data.load(write({"a": np.array([2**64 - 1, 0, 1], np.uint64)})).support is REAL

    def test_labels(self, write) -> None:
        path = write({"a": [1.5, 2.5, 3.5], "é": ["y", "x", "y"]})
        data = lb.data.load(path, labels="é", splits="all")
        assert data["all"].y.tolist() == [1, 0, 1]
        assert data.event_shape == (1,)
        with pytest.raises(ValueError, match="unknown column 'e'"):
            lb.data.load(path, labels="e")

    @pytest.mark.parametrize(
        ("column", "message"),
        [
            ([1.0, None, 2.0], "row 2, column 'b' is missing"),
            ([1, 2, None], "row 3, column 'b' is missing"),
            ([1.0, 2.0, float("nan")], "row 3, column 'b' is missing"),
            (["x", "y", "z"], "row 1, column 'b' holds 'x' of type string"),
            ([[1], [2], [3]], "row 1, column 'b' holds .* of type list"),
        ],
    )
    def test_bad_cells(self, write, column: list[object], message: str) -> None:
        with pytest.raises(ValueError, match=f"mes données.parquet: {message}") as error:
            lb.data.load(write({"a": [1, 2, 3], "b": column}))
        assert "\n" not in str(error.value)

    def test_decimals_are_numbers(self, write) -> None:
        exact = [Decimal("1.25"), Decimal("-30.50"), Decimal("7.00")]
        data = lb.data.load(write({"a": [1, 2, 3], "b": exact}), splits="all")
        assert data.examples("all").tolist() == [[1, 1.25], [2, -30.5], [3, 7]]

    def test_columns_of_null_and_of_dates_are_named_with_what_to_do(self, write) -> None:
        import pyarrow as pa

        path = write({"a": [1.0, 2.0, 3.0], "b": pa.nulls(3)})
        with pytest.raises(ValueError, match=r"'b' holds no value \(type null\).*ignore=\['b'\]"):
            lb.data.load(path)
        assert lb.data.load(path, ignore=["b"]).columns == ("a",)
        # a gap in every row is a gap; to train on it is refused where it is trained
        data = lb.data.load(path, missing="marginalise", splits="all")
        assert data["all"].mask.tolist() == [[True, False]] * 3
        days = [datetime.date(2024, 1, day) for day in (1, 2, 3)]
        words = {"city": ["x", "y", "x"], "when": days, "a": [1, 2, 3]}
        with pytest.raises(
            ValueError,
            match=r"row 1, column 'city' holds 'x' of type string.*2 columns hold no numbers "
            r"\(city, when\): 'when' holds dates.*categorical=\['city'\], ignore=\['when'\]",
        ):
            lb.data.load(write(words))

    def test_columns_by_name(self, write) -> None:
        path = write({"id": ["r", "s", "t"], "b": [1, 2, 3], "a": [0.5, 1.5, 2.5]})
        data = lb.data.load(path, columns=["a", "b"], splits="all")
        assert data.examples("all").tolist() == [[0.5, 1], [1.5, 2], [2.5, 3]]
        assert data.left_out == ("id",)

    def test_damaged_files(self, write) -> None:
        path = write({"a": np.arange(1000)})
        whole = path.read_bytes()
        for content in (b"PAR1", b"hello", whole[:-30], whole[:40] + bytes(60) + whole[100:]):
            path.write_bytes(content)
            with pytest.raises(ValueError, match="cannot be read as .parquet") as error:
                lb.data.load(path)
            assert "\n" not in str(error.value)

    def test_a_file_that_unpacks_beyond_memory(
        self, write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write({"a": np.zeros(1_000_000)})
        assert path.stat().st_size < 100_000
        monkeypatch.setattr(memory, "physical_memory", lambda: 1_000_000)
        with pytest.raises(ValueError, match="needs 0.0 GiB, this machine has 0.0 GiB"):
            lb.data.load(path)
