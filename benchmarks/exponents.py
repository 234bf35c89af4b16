"""Cost is linear in examples, draws and latents: exponents p of time ~ size^p, fitted to epochs of
lb.fit.

    python benchmarks/exponents.py                 # some ten minutes on two cores
    python benchmarks/exponents.py --rounds 2 --steps 2

All sizes of a series are timed in every round; a line through the logarithms of a round gives its
exponent, and the rounds the interval. The sizes are such that what grows is most of the cost; what
is fixed makes an exponent smaller than 1, so that linear cost shows as at most 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from interleaved import arguments, conditions, interleave, positive, table
from scipy.stats import t

import lowerbound as lb
from lowerbound.data.dataset import Dataset, Split

BATCH = 100
SERIES = {
    "examples": (1, 2, 4, 8),
    "draws K": (16, 32, 64, 128),
    "latents Z": (1024, 2048, 4096, 8192),
}


def few(n: int) -> Dataset:
    whole = lb.data.load("mnist", splits="train_test", binarize="dynamic")
    train = Split(whole["train"].values[:n])
    return Dataset(whole.name, {"train": train}, whole.stored_support, whole.transforms)


def epoch(n: int, samples: int, latent: int) -> Callable[[], float]:
    """Seconds of an epoch, of a model whose networks have one layer of 200."""
    data, network = few(n), partial(lb.networks.MLP, hidden=(200,))
    objective = lb.objectives.IWAE(samples) if samples > 1 else lb.objectives.ELBO()

    def run() -> float:
        torch.manual_seed(0)
        model = lb.VAE(
            lb.priors.StandardNormal((latent,)),
            lb.posteriors.DiagonalNormal(data.event_shape, (latent,), network=network),
            lb.likelihoods.Bernoulli((latent,), data.event_shape, network=network),
        )
        # the first epoch warms up: moments are made, memory is taken
        history = lb.fit(
            model, objective, data, epochs=2, batch_size=BATCH, device="cpu", progress=False
        )
        return history.epochs[-1]["seconds"]

    return run


def exponent(sizes: tuple[int, ...], seconds: list[list[float]]) -> tuple[float, float]:
    """The mean slope over the rounds and half of its 95 % interval; seconds by size and round.

    Example:
        >>> p, half = exponent((1, 2, 4), [[1.0, 2.0], [2.0, 4.0], [4.0, 8.0]])
        >>> round(p, 6), round(half, 6)
        (1.0, 0.0)
    """
    slopes = np.polyfit(np.log(sizes), np.log(np.array(seconds)), 1)[0]
    if len(slopes) == 1:
        return float(slopes[0]), float("inf")
    spread = slopes.std(ddof=1) / len(slopes) ** 0.5
    return float(slopes.mean()), float(t.ppf(0.975, len(slopes) - 1) * spread)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--steps",
        type=positive,
        default=20,
        help="batches an epoch, of the smallest number of examples",
    )
    parser.add_argument(
        "--series", nargs="+", choices=SERIES, default=list(SERIES), help="which; all by default"
    )
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(conditions(asked.threads, rounds=asked.rounds))
    rows = []
    for name in asked.series:
        n = BATCH * asked.steps
        make = {
            "examples": lambda size, n=n: epoch(n * size, 1, 50),
            "draws K": lambda size, n=n: epoch(n, size, 50),
            "latents Z": lambda size, n=n: epoch(n, 1, size),
        }[name]
        found = interleave({str(size): make(size) for size in SERIES[name]}, asked.rounds)
        p, half = exponent(SERIES[name], list(found.values()))
        rows.append([name, " ".join(map(str, SERIES[name])), f"{p:.3f} ± {half:.3f}",
                     " ".join(f"{np.median(of):.3g}" for of in found.values())])  # fmt: skip
    print(table(["", "sizes", "exponent", "seconds an epoch"], rows))


if __name__ == "__main__":
    main()
