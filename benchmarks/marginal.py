"""log p(x) with 5,000 draws: how much of the machine's arithmetic it uses, its memory, and pythae's
get_nll beside it.

    python benchmarks/marginal.py
    python benchmarks/marginal.py --rounds 2 --examples 20 --samples 500

The model is 784-200-200-50, the pictures binarised MNIST. The arithmetic that must be done is the
decoder's matrix products for every draw of every picture; over the time that is a rate, and it is
compared with that of a 2048-cube matrix product in the same round. get_nll goes through pictures
one by one, so few of them are enough; by default it draws 100 at a time, and it is also asked to
make all draws at once.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from environment import CONTESTANTS, install
from interleaved import Worker, arguments, conditions, interleave, paired, positive, table
from step import mnist, prepare

sys.path.insert(0, str(CONTESTANTS))
from problem import PIXELS, PROBLEMS, Problem

ALONE = 5  # pictures for pythae, on which all must agree
# nats: weights at their start scatter little, and 5,000 draws find log p(x) to a tenth of that
CLOSE = 0.5
MODEL = "b1"


def operations(problem: Problem, samples: int) -> int:
    """Floating-point operations of the decoder's matrix products for one picture."""
    widths = (problem.latent, *problem.hidden[::-1], PIXELS)
    return samples * sum(2 * a * b for a, b in pairwise(widths))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--samples", type=positive, default=5000, help="K, 5,000 by default")
    parser.add_argument(
        "--examples", type=positive, default=500, help="pictures a round, 500 by default"
    )
    asked = parser.parse_args()
    problem = PROBLEMS[MODEL]
    print(
        conditions(asked.threads, rounds=asked.rounds, model=problem.title, samples=asked.samples)
    )
    calls = {
        "log_marginal": (
            "lowerbound_marginal.py",
            {"call": "log_marginal", "first": ALONE},
            asked.examples,
        ),
        "evaluate": (
            "lowerbound_marginal.py",
            {"call": "evaluate", "first": ALONE},
            asked.examples,
        ),
        "evaluate, bf16-mixed": (
            "lowerbound_marginal.py",
            {"call": "evaluate", "first": ALONE, "precision": "bf16-mixed"},
            asked.examples,
        ),
        **{
            f"pythae, batch_size={size}": (
                "pythae_marginal.py",
                {"batch_size": size, "examples": ALONE},
                ALONE,
            )
            for size in (100, asked.samples)
        },
    }
    foreign = install()
    with ExitStack() as stack:
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "problem.npz"
        prepare(MODEL, mnist(asked.examples), file, asked.examples)
        answers: dict[str, dict[str, float | None]] = {}

        def turn(name: str):
            script, options, n = calls[name]
            python = [foreign, "-E", "-s"] if script.startswith("pythae") else [sys.executable]
            given = json.dumps({"samples": asked.samples, **options})
            worker = Worker(name, [*python, CONTESTANTS / script, file, given], asked.threads)
            stack.callback(worker.close)

            def per_example() -> float:
                seconds = worker.ask("round")["seconds"] / n
                told = worker.ask("answer")
                before = answers.get(name, {"bytes": 0})
                if told["bytes"] is not None and before["bytes"] is not None:
                    told["bytes"] = max(
                        told["bytes"], before["bytes"]
                    )  # the first call is the one that takes most
                answers[name] = told
                return seconds

            return per_example

        rates = Worker(
            "rates", [sys.executable, CONTESTANTS / "rates.py", file, "{}"], asked.threads
        )
        stack.callback(rates.close)

        def at_the_moment() -> float:
            """Seconds that the operations of one picture take at the rate of the large matrix
            product.
            """
            rates.ask("round")
            return operations(problem, asked.samples) / rates.ask("rates")["float32"]

        found = interleave(
            {**{name: turn(name) for name in calls}, "matrix product": at_the_moment}, asked.rounds
        )
    rows = []
    for name, seconds in found.items():
        told = answers.get(name, {})
        value, held = told.get("value"), told.get("bytes")
        share = paired(found["matrix product"], seconds)
        rows.append(
            [
                name,
                f"{1e3 * statistics.median(seconds):.2f}",
                f"{share}",
                str(paired(seconds, found["evaluate"])),
                "" if value is None else f"{value:.2f}",
                "" if held is None else f"{held / 2**20:.0f}",
            ]
        )
    print(
        table(
            ["", "ms/picture", "of the product's rate", "to evaluate", "log p(x)", "MiB more"], rows
        )
    )
    values = [told["value"] for told in answers.values()]
    if not max(values) - min(values) < CLOSE:
        sys.exit(
            f"they do not estimate the same: log p(x) of the first {ALONE} pictures is {values}"
        )
    print(
        "should be: evaluate at 0.60 of the rate or more, at most 1024 MiB more, pythae at 20 or "
        f"more; log p(x) is the mean over the first {ALONE} pictures"
    )


if __name__ == "__main__":
    main()
