"""Which networks, and how wide: held-out ELBO and time of the shipped networks on small sets of
pictures.

    python benchmarks/networks.py

trains a normal likelihood with one learned scale, 32 latent dimensions, on the first 10,000
pictures of Fashion-MNIST for six epochs with each network on both sides, and prints one line for
each. It is what the default widths rest on.
"""

from __future__ import annotations

import time
from functools import partial

import torch

import lowerbound as lb
from lowerbound.data.dataset import Dataset, Split

NETWORKS = {
    "MLP 512": lb.networks.MLP,
    "MLP 512-512": partial(lb.networks.MLP, hidden=(512, 512)),
    "Conv width 16": partial(lb.networks.Conv, width=16),
    "Conv width 32": lb.networks.Conv,
    "Conv width 64": partial(lb.networks.Conv, width=64),
    "ResNet width 16": partial(lb.networks.ResNet, width=16),
    "ResNet width 32": lb.networks.ResNet,
    "ResNet width 32, 2 blocks": partial(lb.networks.ResNet, blocks=2),
}


def few(data: Dataset) -> Dataset:
    sizes = {"train": 10_000, "valid": 1_000, "test": 2_000}
    splits = {name: Split(data[name].values[:n]) for name, n in sizes.items()}
    return Dataset(data.name, splits, data.stored_support, data.transforms)


def main() -> None:
    data = few(lb.data.load("fashion_mnist"))
    x_shape, z_shape = data.event_shape, (32,)
    print(f"{'network':<28} {'parameters':>10} {'-ELBO, nats':>18} {'s/epoch':>8}")
    for name, network in NETWORKS.items():
        torch.manual_seed(0)
        model = lb.VAE(
            prior=lb.priors.StandardNormal(z_shape),
            posterior=lb.posteriors.DiagonalNormal(x_shape, z_shape, network=network),
            likelihood=lb.likelihoods.Normal(z_shape, x_shape, network=network),
        )
        started = time.monotonic()
        lb.fit(
            model,
            lb.objectives.ELBO(),
            data,
            epochs=6,
            learning_rate=2e-3,
            schedule="cosine",
            progress=False,
        )
        seconds = (time.monotonic() - started) / 6
        elbo = lb.evaluate(model, data, samples=1).elbo.times(-1, "nats")
        count = sum(p.numel() for p in model.parameters())
        print(
            f"{name:<28} {count:>10,} {elbo.value:>9.1f} ± {elbo.stderr:<6.1f} {seconds:>8.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
