"""How soon is the tutorial's objective reached? From the start of training to 157.57 nats a picture
on all 60,000.

    python benchmarks/time_to_objective.py                        # some five minutes on two cores
    python benchmarks/time_to_objective.py --rounds 1 --examples 6400 --target 220

The tutorial's network and its objective (cross-entropy on grey values plus KL), from one set of
weights. After every epoch the objective is measured on the whole training set, with one draw for
each picture and the same noise for all: the tutorial's estimator, with the weights held still.
157.5723 is what the tutorial printed for its fifth epoch. Measuring is not in the time; setting up
the loop is. The first training in a process also compiles what is to be compiled; it is shown by
itself, as "first". Later ones look through the model again and find their kernels made: "to
compile" is what that takes of them, and the last column leaves it out.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from environment import CONTESTANTS
from interleaved import Worker, arguments, conditions, interleave, paired, positive, table
from step import mnist, prepare
from torch import Tensor

sys.path.insert(0, str(CONTESTANTS))
from handwritten import loss_of
from plain import networks, set_weights
from problem import Given, load

PRINTED = 157.5723  # nats a picture, of the tutorial's fifth epoch
# the settings of the recipe notebook-mlp-fast, which a test compares
FAST: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 96,
    "learning_rate": 8e-3,
    "schedule": "linear",
    "precision": "bf16-mixed",
}
# whole trainings, as arguments of lb.fit beside the tutorial's loop; epochs is where they give up
TRAININGS: dict[str, dict[str, Any]] = {
    "tutorial": {"by": "tutorial", "epochs": 6},
    "notebook-mlp": {"by": "lowerbound", "epochs": 6},
    "notebook-mlp-fast": {"by": "lowerbound", **FAST},
    "notebook-mlp-fast, compiled": {"by": "lowerbound", **FAST, "compile": True},
}  # fmt: skip


@torch.no_grad()
def objective(given: Given, weights: str) -> float:
    """Nats a picture over all of them, one draw each, the same noise for all who ask."""
    pair = networks(given.problem)
    with np.load(weights) as stored:
        own = Given(
            given.problem,
            [stored[name] for name in stored.files],
            given.pictures,
            given.x,
            given.eps,
        )
    set_weights(own, *pair)
    generator, total = torch.Generator().manual_seed(0), 0.0
    for rows in torch.from_numpy(given.pictures).split(1000):
        x: Tensor = rows.float() / 255
        eps = torch.randn(1, len(x), given.problem.latent, generator=generator)
        total += float(loss_of(*pair, x, eps)) * len(x)
    return total / len(given.pictures)


class Reached(NamedTuple):
    """Seconds and epochs until the target, infinite where it was not reached, and the least
    objective met by then.

    Args:
        seconds: from the start.
        epochs: passes.
        least: nats.
        compiling: seconds among them.
    """

    seconds: float
    epochs: int
    least: float
    compiling: float


def reached(
    course: list[Mapping[str, Any]], compiling: float, given: Given, target: float
) -> Reached:
    """When the target was reached."""
    least = float("inf")
    for i, epoch in enumerate(course, 1):
        least = min(least, objective(given, epoch["weights"]))
        if least <= target:
            return Reached(epoch["seconds"], i, least, compiling)
    return Reached(float("inf"), len(course), least, compiling)


def row(name: str, of: list[Reached], tutorial: list[Reached]) -> list[str]:
    """The first training by itself, and the rest."""
    first, later = of[0], of[1:]
    times, others = [run.seconds for run in later], [run.seconds for run in tutorial[1:]]
    known = float("inf") not in (*times, *others)
    bare = [run.seconds - run.compiling for run in later]
    return [
        name,
        f"{first.seconds:.2f}",
        f"{statistics.median(times):.2f}",
        f"{statistics.median(run.compiling for run in later):.2f}",
        str(statistics.median(run.epochs for run in later)),
        f"{statistics.median(run.least for run in later):.2f}",
        *((str(paired(others, times)), str(paired(others, bare))) if known else ("", "")),
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--trainings",
        nargs="+",
        choices=TRAININGS,
        default=list(TRAININGS),
        help="which; all by default",
    )
    parser.add_argument(
        "--examples", type=positive, default=60_000, help="pictures; fewer only show that it runs"
    )
    parser.add_argument(
        "--target", type=float, default=PRINTED, help=f"nats a picture, {PRINTED} by default"
    )
    asked = parser.parse_args()
    print(
        conditions(
            asked.threads,
            rounds=asked.rounds,
            target=f"{asked.target} nats on {asked.examples:,} pictures",
        )
    )
    with ExitStack() as stack:
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "problem.npz"
        prepare("a", mnist(asked.examples), file)
        given = load(str(file))

        def turn(name: str):
            command = [sys.executable, CONTESTANTS / "runs.py", file, json.dumps(TRAININGS[name])]
            worker = Worker(name, command, asked.threads)
            stack.callback(worker.close)

            def train() -> Reached:
                worker.ask("round")
                told = worker.ask("epochs")
                found = reached(told["epochs"], told["compiling"], given, asked.target)
                for epoch in told["epochs"]:
                    Path(epoch["weights"]).unlink()
                return found

            return train

        found = interleave(
            {name: turn(name) for name in asked.trainings}, asked.rounds + 1, warm_up=0
        )
    base = found.get("tutorial", found[asked.trainings[0]])
    head = [
        "",
        "first, s",
        "again, s",
        "to compile",
        "epochs",
        "objective",
        "sooner than the tutorial",
        "not compiling",
    ]
    print(table(head, [row(name, of, base) for name, of in found.items()]))


if __name__ == "__main__":
    main()
