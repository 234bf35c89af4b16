"""The recipe notebook-mlp against the numbers that the tutorial printed: mean training loss of each
epoch, three seeds.

    python benchmarks/notebook_mlp.py

takes about a minute on two cores and exits with 1 if a mean over the seeds is off by more than 1 %.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from lowerbound.cli import main
from lowerbound.runs.run import Run

PRINTED = (186.3493, 165.4888, 161.6146, 159.3400, 157.5723)
SEEDS = (0, 1, 2)


def losses(seed: int, folder: Path) -> list[float]:
    out = folder / str(seed)
    code = main(
        [
            "train",
            "--config",
            "notebook-mlp",
            "--seed",
            str(seed),
            "--out",
            str(out),
            "--quiet",
            "--samples",
            "1",
        ]
    )
    if code:
        sys.exit(code)
    return [record["train"]["loss"] for record in Run(out).metrics()]


def table(runs: list[list[float]]) -> list[tuple[float, float]]:
    """Print the table; return (printed, mean over seeds) for each epoch."""
    print(
        f"{'epoch':>5} {'notebook':>9} {'mean':>8} {'off by':>7}   seeds "
        f"{', '.join(map(str, SEEDS))}"
    )
    rows = []
    for epoch, (printed, ours) in enumerate(zip(PRINTED, zip(*runs, strict=True), strict=True), 1):
        mean = statistics.mean(ours)
        rows.append((printed, mean))
        print(
            f"{epoch:>5} {printed:>9.2f} {mean:>8.2f} {mean / printed - 1:>+7.2%}   "
            f"{'  '.join(f'{x:.2f}' for x in ours)}"
        )
    return rows


def run() -> list[tuple[float, float]]:
    with tempfile.TemporaryDirectory() as folder:
        return table([losses(seed, Path(folder)) for seed in SEEDS])


if __name__ == "__main__":
    sys.exit(any(abs(mean / printed - 1) > 0.01 for printed, mean in run()))
