"""Removed cells filled in by ``lowerbound impute``, beside means, frequent classes and
scikit-learn's IterativeImputer.

    python benchmarks/imputation.py
    LOWERBOUND_DATA=... python benchmarks/imputation.py     # the census table Adult too

A fifth of the cells is removed at random (seed 0). Numbers: squared error of the removed cells in
units of the variance of their column's observed cells, with a standard error over the rows.
Classes: how often the removed one is found. Every method sees the same holes; IterativeImputer is
run as it comes, with 50 rounds at most. About three minutes on one core.
"""

from __future__ import annotations

import csv
import io
import math
import os
import sys
import tempfile
import warnings
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.exceptions import ConvergenceWarning

# what scikit-learn asks for before the next line
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer

from lowerbound.cli import main

SHARE = 0.2
ADULT_ROWS = 4000
ADULT = [
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education_num",
    "marital",
    "occupation",
    "relationship",
    "race",
    "sex",
]
ADULT += ["gain", "loss", "hours", "country", "income"]
CLASSES = (
    "workclass",
    "education",
    "marital",
    "occupation",
    "relationship",
    "race",
    "sex",
    "country",
    "income",
)
HIDDEN = ["--posterior.network.hidden", "[64]", "--likelihood.network.hidden", "[64]"]
Table = list[list[str]]


def filled(folder: Path, header: list[str], rows: Table, options: list[str]) -> Table:
    """The table as a user fills it in: a file, ``lowerbound train``, ``lowerbound impute``, a
    file.
    """
    holes, run, full = folder / "holes.csv", folder / "run", folder / "full.csv"
    with holes.open("w", newline="") as out:
        csv.writer(out).writerows([header, *rows])
    train = ["train", str(holes), "--data.missing", "marginalise", *options, "--out", str(run)]
    for command in (
        [*train, "--quiet", "--no-report", "--samples", "10"],
        ["impute", str(run), str(holes), "--split", "all", "--out", str(full)],
    ):
        with redirect_stdout(io.StringIO()):
            code = main(command)
        if code:
            sys.exit(code)
    with full.open(newline="") as lines:
        return list(csv.reader(lines))[1:]


def squared_errors(
    x: np.ndarray[Any, Any], gone: np.ndarray[Any, Any], folder: Path
) -> dict[str, tuple[float, float]]:
    """Of a table of numbers: the mean over removed cells, and its standard error over rows, by
    method.
    """
    seen = np.where(gone, np.nan, x)
    scale = np.nanstd(seen, 0)
    rows = [
        ["" if g else str(v) for v, g in zip(*row, strict=True)]
        for row in zip(x, gone, strict=True)
    ]
    names = [f"column_{i}" for i in range(x.shape[1])]
    options = ["--latent", "4", "--epochs", "150", "--batch-size", "32", *HIDDEN]
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # its own default asks for more than 50 rounds give
        iterative = (
            IterativeImputer(random_state=0, max_iter=50).fit_transform(seen / scale) * scale
        )
    guesses = {
        "means": np.tile(np.nanmean(seen, 0), (len(x), 1)),
        "lowerbound": np.array(filled(folder, names, rows, options), dtype=float),
        "IterativeImputer": iterative,
    }
    found = {}
    for name, guess in guesses.items():
        total = np.where(gone, ((guess - x) / scale) ** 2, 0).sum(1)
        mean = total.sum() / gone.sum()
        # a ratio of two sums over rows: the error of the numerator about the mean ratio, over the
        # denominator
        error = math.sqrt(((total - mean * gone.sum(1)) ** 2).sum()) / gone.sum()
        found[name] = (mean, error)
    return found


def adult(source: Path, folder: Path) -> None:
    """Of the census table: right classes beside the most frequent one, and errors of numbers beside
    the mean's.
    """
    lines = (line.split(", ") for line in source.read_text().splitlines() if line.strip())
    whole = [row for row in lines if "?" not in row][:ADULT_ROWS]
    gone = np.random.default_rng(0).random((len(whole), len(ADULT))) < SHARE
    rows = [
        ["" if g else v for v, g in zip(*row, strict=True)] for row in zip(whole, gone, strict=True)
    ]
    options = [
        "--data.categorical",
        f"[{','.join(CLASSES)}]",
        "--likelihood",
        "Product",
        "--latent",
        "8",
        "--epochs",
        "12",
    ]
    full = filled(folder, ADULT, rows, options)
    print(f"\n{'Adult':<16} {'lowerbound':>10} {'without x':>10}   of {len(whole):,} rows")
    for j, name in enumerate(ADULT):
        there = [row[j] for row, g in zip(whole, gone[:, j], strict=True) if not g]
        truth, guess = (
            [row[j] for row, g in zip(table, gone[:, j], strict=True) if g]
            for table in (whole, full)
        )
        if name in CLASSES:
            frequent = Counter(there).most_common(1)[0][0]
            right = np.mean([a == b for a, b in zip(truth, guess, strict=True)])
            print(
                f"{name:<16} {right:>10.1%} {np.mean([v == frequent for v in truth]):>10.1%}   "
                "right"
            )
        else:
            seen, cells = np.array(there, float), np.array(truth, float)
            own = np.mean((np.array(guess, float) - cells) ** 2) / seen.var()
            mean = np.mean((seen.mean() - cells) ** 2) / seen.var()
            print(f"{name:<16} {own:>10.2f} {mean:>10.2f}   squared error, variances")


if __name__ == "__main__":
    print(
        f"{'table':<16} {'means':>16} {'lowerbound':>16} {'IterativeImputer':>18}   squared error, "
        "variances"
    )
    for name, x in (("wine", load_wine().data), ("breast cancer", load_breast_cancer().data)):
        with tempfile.TemporaryDirectory() as scratch:
            gone = np.random.default_rng(0).random(x.shape) < SHARE
            own = squared_errors(x, gone, Path(scratch))
        cells = [f"{mean:.2f} ± {error:.2f}" for mean, error in own.values()]
        print(f"{name:<16} {cells[0]:>16} {cells[1]:>16} {cells[2]:>18}")
    if data := os.environ.get("LOWERBOUND_DATA"):
        with tempfile.TemporaryDirectory() as scratch:
            adult(Path(data) / "adult" / "adult.data", Path(scratch))
