"""The networks of a problem in plain torch, on flat pictures: the same layers for every contestant
on torch.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from problem import PIXELS, SIDE, Given, Problem
from torch import Tensor, nn


def networks(problem: Problem) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder (N, 784) -> (N, 2 Z), means and then log-variances, and decoder (N, Z) -> (N, 784),
    logits.
    """
    make = convolutional if problem.is_convolutional else fully_connected
    return make(problem)


def fully_connected(problem: Problem) -> tuple[nn.Sequential, nn.Sequential]:
    activation = getattr(nn, problem.activation)

    def layers(widths: tuple[int, ...]) -> nn.Sequential:
        found = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), activation())]
        return nn.Sequential(*found[:-1])

    encoder = layers((PIXELS, *problem.hidden, 2 * problem.latent))
    return encoder, layers((problem.latent, *problem.hidden[::-1], PIXELS))


def convolutional(problem: Problem) -> tuple[nn.Sequential, nn.Sequential]:
    activation = getattr(nn, problem.activation)
    (first, second), least = problem.hidden, SIDE // 4
    flat = second * least * least
    encoder = nn.Sequential(
        nn.Unflatten(1, (1, SIDE, SIDE)),
        nn.Conv2d(1, first, 3, stride=2, padding=1),
        activation(),
        nn.Conv2d(first, second, 3, stride=2, padding=1),
        activation(),
        nn.Flatten(),
        nn.Linear(flat, 2 * problem.latent),
    )
    decoder = nn.Sequential(
        nn.Linear(problem.latent, flat),
        nn.Unflatten(1, (second, least, least)),
        activation(),
        nn.ConvTranspose2d(second, first, 3, stride=2, padding=1, output_padding=1),
        activation(),
        nn.ConvTranspose2d(first, 1, 3, stride=2, padding=1, output_padding=1),
        nn.Flatten(),
    )
    return encoder, decoder


def binarised(x: Tensor) -> Tensor:
    """Ones with the grey values as their probabilities: what torch.bernoulli does, four times as
    fast on a CPU.
    """
    return torch.rand_like(x).lt(x).float()


def parameters(*modules: nn.Module) -> list[nn.Parameter]:
    return [p for module in modules for p in module.parameters()]


@torch.no_grad()
def set_weights(given: Given, *modules: nn.Module) -> None:
    """Give modules, encoder first, the weights of the problem."""
    for own, value in zip(parameters(*modules), given.weights, strict=True):
        own.copy_(torch.from_numpy(value))


def x_and_eps(given: Given) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(given.x), torch.from_numpy(given.eps)


def told(modules: list[nn.Module], loss: Tensor, batch: Tensor) -> dict[str, object]:
    """The answer to "check": what must be the same for all contestants."""
    values = np.asarray(batch.detach())
    return {
        "parameters": sum(p.numel() for p in parameters(*modules)),
        "loss": float(loss),
        "mean": float(values.mean()),
        "is_binary": bool(((values == 0) | (values == 1)).all()),
        "batch": len(values),
    }
