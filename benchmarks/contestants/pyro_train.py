"""Pyro: model and guide as in its tutorial on VAEs, all data in one tensor, argument checks off.

    python benchmarks/contestants/pyro_train.py problem.npz '{}'

Runs inside the contestants' environment. One draw with the closed-form KL is TraceMeanField_ELBO;
the bound of K draws is RenyiELBO at order 0 with vectorised particles.
"""

from __future__ import annotations

import json
import sys

import pyro
import pyro.distributions as dist
import torch
from channel import Channel
from plain import binarised, networks, set_weights, told
from problem import NOISE_SEED, load
from pyro.infer import SVI, RenyiELBO, TraceMeanField_ELBO
from pyro.optim import Adam
from torch import Tensor


def main(file: str) -> None:
    given = load(file)
    problem = given.problem
    pyro.enable_validation(False)
    encoder, decoder = networks(problem)
    set_weights(given, encoder, decoder)
    data = torch.from_numpy(given.scale)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            zero = x.new_zeros(len(x), problem.latent)
            z = pyro.sample("z", dist.Normal(zero, torch.ones_like(zero)).to_event(1))
            logits = decoder(z.reshape(-1, problem.latent)).reshape(*z.shape[:-1], -1)
            pyro.sample("x", dist.Bernoulli(logits=logits, validate_args=False).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            mu, log_var = encoder(x).chunk(2, 1)
            pyro.sample("z", dist.Normal(mu, (0.5 * log_var).exp()).to_event(1))

    if problem.samples > 1:
        bound = RenyiELBO(
            alpha=0, num_particles=problem.samples, vectorize_particles=True, max_plate_nesting=1
        )
    else:
        bound = TraceMeanField_ELBO()
    svi = SVI(model, guide, Adam({"lr": 1e-3}), loss=bound)

    def presented(x: Tensor) -> Tensor:
        return binarised(x) if problem.is_binary else x

    def one_epoch() -> None:
        total = 0.0
        for index in torch.randperm(len(data)).split(problem.batch):
            channel.step()
            total += svi.step(presented(data[index]))

    def check() -> dict[str, object]:
        state = torch.get_rng_state()
        torch.manual_seed(NOISE_SEED)
        loss = torch.tensor(svi.evaluate_loss(torch.from_numpy(given.x)) / len(given.x))
        torch.set_rng_state(state)
        return told([encoder, decoder], loss, presented(data[: problem.batch]))

    torch.manual_seed(NOISE_SEED)
    channel = Channel({"check": check})
    while True:
        one_epoch()


if __name__ == "__main__":
    main(sys.argv[1], **json.loads(sys.argv[2]))
