"""What is written looks like what was read: observed cells to the character, others with the
decimals of their column.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from tests.cli.conftest import Command

ROWS = 120


def ledger(path: Path) -> list[list[str]]:
    """Account numbers and times that float32 cannot hold, prices with gaps, as text of many
    forms.
    """
    rng = np.random.default_rng(0)
    accounts = rng.integers(10**8, 10**9, ROWS)
    times = 1_600_000_000 + rng.integers(0, 10**5, ROWS)
    prices = [f"{price:.2f}" for price in rng.normal(5e4, 1e4, ROWS)]
    for i in range(0, ROWS, 7):
        prices[i] = "" if i % 2 else "NA"
    levels = [f"+{level:.1f}" if level > 0 else f" {level:.1f}" for level in rng.normal(size=ROWS)]
    columns = (map(str, accounts), map(str, times), prices, levels)
    rows = [list(row) for row in zip(*columns, strict=True)]
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["account", "time", "price", "level"], *rows])
    return rows


def read(path: Path) -> list[list[str]]:
    with path.open(newline="") as stream:
        return list(csv.reader(stream))[1:]


def test_observed_cells_are_copied_and_others_have_the_decimals_of_their_column(
    tmp_path: Path, command: Command
) -> None:
    rows = ledger(tmp_path / "ledger.csv")
    code, _, error = command(
        "train", tmp_path / "ledger.csv", "--data.missing", "marginalise", "--likelihood", "Normal",
        "--likelihood.scale", "per_dimension", "--latent", 2, "--epochs", 2, "--quiet",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, error
    impute = ("impute", tmp_path / "run", "--samples", 20)
    assert command(*impute, tmp_path / "ledger.csv", "--out", tmp_path / "full.csv")[0] == 0
    for before, after in zip(rows, read(tmp_path / "full.csv"), strict=True):
        gap = before[2] in ("", "NA")
        assert [*after[:2], after[3]] == [*before[:2], before[3]]
        assert (after[2] == before[2]) != gap
        assert len(after[2].partition(".")[2]) == 2
    # the run's own test split: some rows, in the order of the file
    assert command(*impute, "--out", tmp_path / "own.csv")[0] == 0
    own = read(tmp_path / "own.csv")
    accounts = [row[0] for row in rows]
    places = [accounts.index(row[0]) for row in own]
    assert len(own) == ROWS // 10
    assert places == sorted(places)
    assert command("sample", tmp_path / "run", "-n", 50, "--out", tmp_path / "s.csv")[0] == 0
    drawn = read(tmp_path / "s.csv")
    for row in drawn:
        assert [len(cell.partition(".")[2]) for cell in row] == [0, 0, 2, 1]
    times = np.array([int(row[1]) for row in drawn])
    assert len(np.unique(times % 128)) > 20  # no steps of float32
    assert abs(times.mean() - 1.6e9) < 1e6


def test_arrays_are_filled_in_their_own_precision(tmp_path: Path, command: Command) -> None:
    x = 1.7e9 + np.random.default_rng(0).normal(size=(100, 2))
    x[::5, 0] = np.nan
    np.save(tmp_path / "x.npy", x)
    train = ("train", tmp_path / "x.npy", "--data.missing", "marginalise", "--latent", 1)
    train = (*train, "--likelihood", "Normal", "--epochs", 1, "--quiet")
    code, _, error = command(*train, "--out", tmp_path / "run")
    assert code == 0, error
    np.save(tmp_path / "few.npy", x[:1])
    for name in ("x", "few"):
        impute = ("impute", tmp_path / "run", tmp_path / f"{name}.npy", "--samples", 10)
        code, _, error = command(*impute, "--out", tmp_path / "full.npy")
        assert code == 0, error
        full, before = np.load(tmp_path / "full.npy"), np.load(tmp_path / f"{name}.npy")
        assert full.dtype == np.float64
        assert np.array_equal(full[~np.isnan(before)], before[~np.isnan(before)])
