"""log p(x) by pythae's VAE.get_nll, for marginal.py; runs inside the contestants' environment.

    python benchmarks/contestants/pythae_marginal.py problem.npz '{"samples": 5000, "batch_size":
    100, "examples": 5}'

A round estimates it for the first pictures of the problem only. get_nll returns +log p(x) under the
name of its negative.
"""

from __future__ import annotations

import json
import sys

import torch
from channel import serve
from memory import measured
from plain import networks, set_weights
from problem import PIXELS, load
from pythae.models import VAE, VAEConfig
from pythae_train import Decoder, Encoder


def main(file: str, samples: int, batch_size: int, examples: int) -> None:
    given = load(file)
    config = VAEConfig(
        input_dim=(PIXELS,), latent_dim=given.problem.latent, reconstruction_loss="bce"
    )
    encoder, decoder = networks(given.problem)
    model = VAE(config, Encoder(encoder), Decoder(decoder)).eval()
    set_weights(given, model.encoder, model.decoder)
    x = torch.from_numpy(given.x[:examples])
    found: dict[str, float] = {}

    def one_round() -> None:
        with torch.no_grad():
            found.update(measured(lambda: float(model.get_nll(x, samples, batch_size))))

    serve(one_round, {"answer": lambda: found})


if __name__ == "__main__":
    main(sys.argv[1], **json.loads(sys.argv[2]))
