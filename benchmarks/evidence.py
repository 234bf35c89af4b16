"""How well log p(x) is known on MNIST: the sandwich on simulated pictures, annealing against
weighting on real ones.

    python benchmarks/evidence.py [RUN]

RUN is a run on binarised MNIST; without one, a 784-200-200-50 model with tanh units is trained
first, ten minutes on two cores. The table shows, over 100 pictures simulated from the model, how
many have bounds closer than 0.5 nats, for several ways of walking the path; and over the first 100
test pictures annealing and L_5000, paired. Takes about ten minutes more; exits with 1 where with
the default settings fewer than 90 pictures are narrow, or annealing lies more than 3 paired
standard errors below L_5000.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import lowerbound as lb
from lowerbound.cli import main
from lowerbound.evaluation import annealed, log_marginal, sandwich
from lowerbound.runs.opened import own_data
from lowerbound.runs.run import Run

PICTURES = 100
NARROW = 0.5  # nats
WAYS = (  # temperatures, leapfrog steps, start; the first are the defaults
    (200, 3, "posterior"),
    (100, 3, "posterior"),
    (60, 10, "posterior"),
    (600, 1, "posterior"),
    (1000, 3, "prior"),
)


def train(folder: Path) -> Path:
    settings = {
        "data.splits": "train_test",
        "data.binarize": "dynamic",
        "likelihood": "Bernoulli",
        "latent": "50",
        **{f"{part}.network.hidden": "[200,200]" for part in ("posterior", "likelihood")},
        **{f"{part}.network.activation": "Tanh" for part in ("posterior", "likelihood")},
        "objective.warmup": "0.2",
        "epochs": "200",
        "learning-rate": "0.002",
        "schedule": "cosine",
        "precision": "bf16-mixed",
        "out": str(folder / "mnist"),
    }
    code = main(
        [
            "train",
            "mnist",
            "--no-report",
            *(word for key, value in settings.items() for word in (f"--{key}", value)),
        ]
    )
    if code:
        sys.exit(code)
    return folder / "mnist"


def run(path: Path) -> bool:
    found = Run(path)
    model = found.model()
    x = own_data(found).examples("test")[:PICTURES]
    print(f"{PICTURES} pictures simulated from the model, 16 chains each way\n")
    print(
        f"{'temperatures':>12}  leapfrog  {'start':<9}  {'upper - lower':>15}  below {NARROW}  "
        "accepted  seconds"
    )
    narrow = []
    for temperatures, leapfrog, start in WAYS:
        before = time.perf_counter()
        s = sandwich(model, PICTURES, 16, temperatures, leapfrog, start, seed=0)
        gap = s.upper - s.lower
        narrow.append(int((gap.abs() < NARROW).sum()))
        print(
            f"{temperatures:>12}  {leapfrog:>8}  {start:<9}  {lb.Estimate.over(gap).short:>15}  "
            f"{narrow[-1]:>9}  {s.acceptance.mean():>8.0%}  {time.perf_counter() - before:>7.0f}",
            flush=True,
        )
    weighted = log_marginal(model, x, samples=5000, seed=0).double()
    chains = annealed(model, x, seed=0).log_marginal
    difference = lb.Estimate.over(chains - weighted)
    print(f"\nthe first {PICTURES} test pictures, nats")
    print(f"log p(x), L_5000            {lb.Estimate.over(weighted).short}")
    print(f"log p(x), annealing         {lb.Estimate.over(chains).short}")
    print(f"annealing less L_5000       {difference.short}, paired")
    return narrow[0] >= 90 and difference.value > -3 * difference.stderr


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(not run(Path(sys.argv[1]) if len(sys.argv) > 1 else train(Path(folder))))
