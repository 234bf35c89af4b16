"""What the contestants of step.py are given: the same networks, weights, pictures and noise, as a
file of arrays.

Read by every environment, so it needs nothing but numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PIXELS, SIDE = 784, 28
NOISE_SEED = 0  # torch's draws from it, in the order of eps (K, B, Z), are those in the file


@dataclass(frozen=True)
class Problem:
    """A model to train, and how.

    Args:
        title: as printed.
        batch: examples a step.
        latent: Z.
        hidden: widths of the encoder, mirrored in the decoder; of a convolutional model, the
            channels.
        activation: a class of torch.nn.
        steps: of a round.
        samples: K; 1 is the ELBO with the closed-form KL, more the importance-weighted bound.
        is_binary: pictures drawn anew as ones and zeros at every presentation, scored by their
            Bernoulli probability; else grey values scored by cross-entropy, as the tutorials do.
        is_convolutional: else fully connected.
    """

    title: str
    batch: int
    latent: int
    hidden: tuple[int, ...]
    activation: str
    steps: int
    samples: int = 1
    is_binary: bool = False
    is_convolutional: bool = False


PROBLEMS = {
    "a": Problem("784-512-2, batch 128, grey", 128, 2, (512,), "ReLU", 60),
    "b1": Problem(
        "784-200-200-50, batch 100, binarised, K = 1",
        100,
        50,
        (200, 200),
        "Tanh",
        60,
        is_binary=True,
    ),
    "b50": Problem(
        "784-200-200-50, batch 100, binarised, K = 50",
        100,
        50,
        (200, 200),
        "Tanh",
        10,
        50,
        is_binary=True,
    ),
    "c": Problem(
        "convolutional 1x28x28, batch 128, grey",
        128,
        32,
        (32, 64),
        "SiLU",
        10,
        is_convolutional=True,
    ),
}


@dataclass(frozen=True)
class Given:
    """The problem with its arrays.

    Args:
        problem: the model.
        weights: of the encoder, then of the decoder, in the order and layout of torch's parameters;
            the encoder's last layer gives the means and then the log-variances.
        pictures: (n, 784), uint8: an epoch is one pass over them.
        x: (B, 784), float32, the examples on which all must find the same loss.
        eps: (K, B, Z), float32, the noise with which they must.
    """

    problem: Problem
    weights: list[np.ndarray]
    pictures: np.ndarray
    x: np.ndarray
    eps: np.ndarray

    @property
    def scale(self) -> np.ndarray:
        """All pictures as grey values in [0, 1], float32."""
        return self.pictures.astype(np.float32) / 255


def save(file: Path, key: str, arrays: dict[str, np.ndarray], weights: list[np.ndarray]) -> None:
    np.savez(file, key=key, **arrays, **{f"w{i}": value for i, value in enumerate(weights)})


def load(file: str) -> Given:
    with np.load(file) as stored:
        arrays: dict[str, Any] = dict(stored)
    weights = [arrays[f"w{i}"] for i in range(sum(name.startswith("w") for name in arrays))]
    return Given(
        PROBLEMS[str(arrays["key"])], weights, arrays["pictures"], arrays["x"], arrays["eps"]
    )
