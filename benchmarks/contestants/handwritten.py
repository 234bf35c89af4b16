"""The best loop that one would write in torch for the model at hand, eager or compiled, in float32
or bfloat16.

    python benchmarks/contestants/handwritten.py problem.npz '{"precision": "bfloat16", "compiled":
    true}'

All data in one tensor and gathered by a permutation, logits, fused Adam, no number asked for within
an epoch.
"""

from __future__ import annotations

import json
import math
import sys
from contextlib import nullcontext

import torch
from channel import Channel
from plain import binarised, networks, parameters, set_weights, told, x_and_eps
from problem import NOISE_SEED, load
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits


def loss_of(encoder: nn.Module, decoder: nn.Module, x: Tensor, eps: Tensor) -> Tensor:
    """Mean loss of the batch x (B, 784) for noise eps (K, B, Z): the negative ELBO, or the bound of
    K > 1 draws.
    """
    samples, batch = eps.shape[:2]
    mu, log_var = encoder(x).float().chunk(2, 1)
    z = mu + (0.5 * log_var).exp() * eps
    logits = decoder(z.flatten(0, 1)).float()
    if samples == 1:
        distortion = binary_cross_entropy_with_logits(logits, x, reduction="sum")
        rate = 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum()
        return (distortion + rate) / batch
    logits = logits.unflatten(0, (samples, batch))
    # nearly twice as fast on a CPU, forward and backward, as (logits * x -
    # softplus(logits)).sum(-1)
    log_px = -binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(
        -1
    )
    log_w = log_px - 0.5 * (z.square() - eps.square() - log_var).sum(-1)
    return (math.log(samples) - log_w.logsumexp(0)).mean()


def main(file: str, precision: str = "float32", compiled: bool = False) -> None:
    given = load(file)
    problem = given.problem
    encoder, decoder = networks(problem)
    set_weights(given, encoder, decoder)
    data = torch.from_numpy(
        given.scale
    )  # gathering float32 takes as long as gathering uint8 and scaling it
    optimizer = torch.optim.Adam(parameters(encoder, decoder), fused=True)
    shape = (problem.samples, problem.batch, problem.latent)

    def half():
        return torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else nullcontext()

    def drawn(x: Tensor) -> Tensor:
        x = binarised(x) if problem.is_binary else x
        return loss_of(encoder, decoder, x, torch.randn(shape))

    step_loss = torch.compile(drawn, fullgraph=True) if compiled else drawn

    def one_epoch() -> None:
        total = torch.zeros(())
        for index in torch.randperm(len(data)).split(problem.batch):
            channel.step()
            with half():
                loss = step_loss(data.index_select(0, index))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.detach()

    def check() -> dict[str, object]:
        batch = binarised(data[: problem.batch]) if problem.is_binary else data[: problem.batch]
        with torch.no_grad(), half():
            return told([encoder, decoder], loss_of(encoder, decoder, *x_and_eps(given)), batch)

    torch.manual_seed(NOISE_SEED)
    channel = Channel({"check": check})
    while True:
        one_epoch()


if __name__ == "__main__":
    main(sys.argv[1], **json.loads(sys.argv[2]))
