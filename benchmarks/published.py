"""Recipes on MNIST beside their published numbers: log p(x) by 5,000 draws, its standard error, the
spread over seeds.

    python benchmarks/published.py --out runs/published
    python benchmarks/published.py --out runs/published --methods iwae-1layer-k1 vamp --seeds 0
    python benchmarks/published.py --out runs/published --table

Each method is a recipe and the options that make it the published model; each seed is a run folder
below --out. A run that was interrupted goes on. One that has been evaluated leaves a record,
benchmarks/records/METHOD-SEED.json: what was run, when, where and from which commit, what it gave
and what it took. What has a record is not done again, so that the table can be made over several
days and on several machines; --table prints it from the records alone.

The standard error of a run is over the test pictures; two methods saw the same pictures, so an
order between them is claimed by the differences of their means over seeds: where those are beyond
two standard errors.

The minutes are those of training, as metrics.jsonl has them, on the threads that torch uses
(OMP_NUM_THREADS), and beside them those for which a processor was busy, with the loading of the
data and the evaluation by 100 draws at the end: where the machine has other work, or several of
these runs at once, they say what an idle one would take.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import shlex
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from interleaved import processor

from lowerbound.cli import main
from lowerbound.utils.files import write_json

DRAWS = 5000
RECORDS = Path(__file__).parent / "records"


@dataclass(frozen=True)
class Method:
    """A recipe with options, and what was published of it: nats, and where."""

    options: tuple[str, ...]
    published: float
    source: str


BURDA = "Burda et al. 2015, table 1"
TOMCZAK = "Norouzi et al. 2020, of Tomczak and Welling 2018"
BERG = "van den Berg et al. 2018"
COMPILE = (
    "--compile",
    "true",
)  # the same numbers up to rounding, in less time where much is done beside the products
METHODS = {
    "iwae-1layer-k1": Method(("--config", "iwae-1layer", *COMPILE), 86.76, BURDA),
    "iwae-1layer-k5": Method(
        ("--config", "iwae-1layer", "--objective.samples", "5", "--epochs", "200", *COMPILE),
        85.54,
        BURDA,
    ),
    "iwae-2layer-k1": Method(("--config", "iwae-2layer", *COMPILE), 85.33, BURDA),
    "vamp": Method(("--config", "vamp", *COMPILE), 82.43, TOMCZAK),
    "vamp-standard-normal": Method(
        ("--config", "vamp", "--prior.part", "StandardNormal", *COMPILE), 84.45, TOMCZAK
    ),
    "iaf": Method(("--config", "iaf"), 80.79, BERG),
    "iaf-diagonal-normal": Method(
        ("--config", "iaf", "--posterior.part", "DiagonalNormal"), 82.14, BERG
    ),
}
"""Two of them are the same protocol without its point: what a method brings is their difference."""


def record(name: str, seed: int) -> Path:
    """Where the record of a run lies, or will."""
    return RECORDS / f"{name}-{seed}.json"


def busy_minutes(folder: Path) -> float | None:
    """Of the processor in training, over all the calls that it took; a call that was killed has
    told nothing.
    """
    beside = folder.with_suffix(".busy")
    return sum(map(float, beside.read_text().split())) / 60 if beside.is_file() else None


def run(name: str, seed: int, folder: Path) -> None:
    """Train, or go on, evaluate, and leave a record."""
    if record(name, seed).is_file():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    how = [
        *METHODS[name].options,
        "--seed",
        str(seed),
        "--out",
        str(folder),
        "--no-report",
        "--samples",
        "100",
    ]
    if not (folder / "evaluation.json").is_file():
        begun = (folder / "config.yaml").is_file()
        command = ["train", *(["--resume", "--out", str(folder)] if begun else how)]
        before, code = time.process_time(), 1
        try:
            code = main(command)
        finally:
            with folder.with_suffix(".busy").open("a") as out:
                out.write(f"{time.process_time() - before:.1f}\n")
        if code:
            sys.exit(code)
    # training leaves one of fewer
    is_done = json.loads((folder / "evaluation.json").read_text())["samples"] == DRAWS
    if not is_done and (code := main(["evaluate", str(folder), "--samples", str(DRAWS)])):
        sys.exit(code)
    write_json(record(name, seed), told(name, seed, folder))


def told(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """What a record holds of a run that has been evaluated."""
    evaluation = json.loads((folder / "evaluation.json").read_text())
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    described = ["git", "-C", str(RECORDS.parent), "describe", "--always", "--dirty"]
    return {
        "method": name,
        "seed": seed,
        "command": shlex.join(["lowerbound", "train", *METHODS[name].options, "--seed", str(seed)]),
        "commit": subprocess.run(
            described, capture_output=True, text=True, check=False
        ).stdout.strip(),
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        "machine": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "epochs": len(epochs),
        "minutes": sum(epoch["seconds"] for epoch in epochs) / 60,
        "busy": busy_minutes(folder),
        **{
            key: evaluation[key]
            for key in ("samples", "n", "sha256", "elbo", "nll", "rate", "active_units")
        },
    }


def table(records: Path) -> str:
    """One row a method, over the seeds of which there are records, and the orders that follow."""
    lines = [
        f"nll in nats, {DRAWS:,} draws, lower is better; minutes and busy minutes are the longest "
        "of any seed",
        "",
        f"{'method':<22} {'published':>9} {'seeds':>5} {'nll, mean':>9} {'spread':>6} {'s.e.':>5} "
        f"{'minutes':>7} {'busy':>5}  source",
    ]
    means: dict[str, list[float]] = {}
    for name, method in METHODS.items():
        found = [
            json.loads(path.read_text()) for path in sorted(records.glob(f"{name}-[0-9]*.json"))
        ]
        if not found:
            continue
        values = means[name] = [own["nll"]["value"] for own in found]
        spread = f"{statistics.stdev(values):6.2f}" if len(values) > 1 else "     –"
        lines.append(
            f"{name:<22} {method.published:>9.2f} {len(found):>5} {statistics.mean(values):>9.2f} "
            f"{spread} {max(own['nll']['stderr'] for own in found):>5.2f} "
            f"{max(own['minutes'] for own in found):>7.1f} "
            f"{max((own['busy'] for own in found if own['busy']), default=math.nan):>5.1f}  "
            f"{method.source}"
        )
    for one, other in combinations([name for name in means if len(means[name]) > 1], 2):
        error = math.sqrt(
            sum(statistics.variance(means[name]) / len(means[name]) for name in (one, other))
        )
        gap = statistics.mean(means[one]) - statistics.mean(means[other])
        order = "no order" if abs(gap) <= 2 * error else f"{one if gap < 0 else other} is better"
        lines.append(f"{one} less {other}: {gap:+.2f} ± {error:.2f}, {order}")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/published"), help="a folder for the run folders"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--table", action="store_true", help="print what there is, and do nothing else"
    )
    given = parser.parse_args()
    if not given.table:
        for seed in given.seeds:  # all methods once before any twice
            for name in given.methods:
                run(name, seed, given.out / name / str(seed))
    print(table(RECORDS))
