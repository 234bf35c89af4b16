"""log p(x) by lowerbound, for marginal.py.

    python benchmarks/contestants/lowerbound_marginal.py problem.npz '{"samples": 5000, "call":
    "evaluate", "first": 5}'

A round estimates log p(x) of all pictures of the problem; "answer" tells the mean of the first of
them, and what memory the last round took.
"""

from __future__ import annotations

import json
import sys

import torch
from channel import serve
from lowerbound_fit import build, card
from memory import measured
from problem import load

import lowerbound as lb
from lowerbound.evaluation import log_marginal


def main(file: str, samples: int, call: str, first: int, precision: str = "32-true") -> None:
    given = load(file)
    data = card(given)
    model = build(given, data.event_shape)
    x = torch.from_numpy(given.x).view(-1, *data.event_shape)
    # binary already: drawing it again gives the same pictures, and so both calls see one x
    data = lb.data.from_arrays(given.x.reshape(-1, *data.event_shape), splits="all")
    calls = {
        "log_marginal": lambda: float(
            log_marginal(model, x, samples=samples, seed=0)[:first].mean()
        ),
        "evaluate": lambda: (
            -float(
                lb.evaluate(model, data, split="all", samples=samples, precision=precision)
                .values["nll"][:first]
                .mean()
            )
        ),
    }
    found: dict[str, float] = {}

    def one_round() -> None:
        found.update(measured(calls[call]))

    serve(one_round, {"answer": lambda: found})


if __name__ == "__main__":
    main(sys.argv[1], **json.loads(sys.argv[2]))
