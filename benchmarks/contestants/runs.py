"""Whole trainings of the tutorial's network, timed epoch by epoch, for time_to_objective.py.

    python benchmarks/contestants/runs.py problem.npz '{"by": "tutorial", "epochs": 5}'
    python benchmarks/contestants/runs.py problem.npz '{"by": "lowerbound", "epochs": 2,
    "learning_rate": 0.005}'

A round is a training from the weights of the problem, the set-up of the loop included. "epochs"
tells of each epoch the seconds since the start of training and the file that holds the weights at
its end; writing the file is not counted. Of the seconds before the end of the first epoch,
"compiling" went to its compiled step.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from channel import serve
from plain import networks, parameters, set_weights
from problem import NOISE_SEED, Given, load
from torch import nn


class Course:
    """What became of the weights, and when.

    Args:
        folder: where the weights are written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.epochs: list[dict[str, object]] = []
        self.began, self.compiling = 0.0, 0.0

    def start(self) -> None:
        self.epochs, self.began, self.compiling = [], time.perf_counter(), 0.0

    def note(self, *modules: nn.Module) -> None:
        """An epoch has ended."""
        now = time.perf_counter()
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".npz", delete=False) as file:
            np.savez(file, *(p.detach().numpy() for p in parameters(*modules)))
        self.epochs.append({"seconds": now - self.began, "weights": file.name})
        self.began += time.perf_counter() - now


def by_tutorial(given: Given, course: Course, epochs: int) -> None:
    from tutorial import Tutorial, train

    model = Tutorial(*networks(given.problem))
    set_weights(given, model.encoder, model.decoder)
    course.start()
    for _ in train(model, given, epochs):
        course.note(model.encoder, model.decoder)


def by_lowerbound(given: Given, course: Course, epochs: int, **settings: object) -> None:
    from lowerbound_fit import build, card

    import lowerbound as lb

    data = card(given)
    model = build(given, data.event_shape)

    def note(record: Mapping[str, object]) -> None:
        course.note(model.posterior, model.likelihood)

    course.start()
    how = {"epochs": epochs, "device": "cpu", **settings}
    history = lb.fit(model, lb.objectives.ELBO(), data, **how, callbacks=[note])
    course.compiling = sum(epoch.get("compile_seconds", 0.0) for epoch in history.epochs)


def main(file: str, by: str, **settings: object) -> None:
    given, course = load(file), Course(Path(file).parent)
    train = {"tutorial": by_tutorial, "lowerbound": by_lowerbound}[by]
    torch.manual_seed(NOISE_SEED)
    serve(
        lambda: train(given, course, **settings),
        {"epochs": lambda: {"epochs": course.epochs, "compiling": course.compiling}},
    )


if __name__ == "__main__":
    main(sys.argv[1], **json.loads(sys.argv[2]))
