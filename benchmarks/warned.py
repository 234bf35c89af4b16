"""When is it worth saying that an estimate of -log p(x) is biased?

For each data set and seed: train with the defaults, measure nll with K = 100 draws, and again with
5,000, which is near the truth. Printed are the share of heavy-tailed examples, what the curve says
is still to fall, by how much nll did fall, the standard error, and whether a warning is given. Good
is a rule that warns where the fall is beyond the standard error, and nowhere else.

    python benchmarks/warned.py [--data FOLDER]     # FOLDER/tables/*.csv, if they are there
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn import datasets

import lowerbound as lb
from lowerbound.data.dataset import Dataset

SEEDS = (0, 1)


def data_sets(folder: str | None) -> Iterator[tuple[str, Dataset]]:
    """Small tables and pictures; of a table in a file its numeric columns and complete rows."""
    yield "digits", lb.data.load("digits", binarize="threshold")
    for name in ("wine", "breast_cancer", "diabetes"):
        yield name, lb.data.from_arrays(getattr(datasets, f"load_{name}")().data)
    for name in ("penguins", "diamonds"):
        file = Path(folder or ".", "tables", f"{name}.csv")
        if file.exists():
            rows = np.genfromtxt(file, delimiter=",", skip_header=1, max_rows=3000)
            rows = rows[:, ~np.isnan(rows).all(0)]
            yield name, lb.data.from_arrays(rows[~np.isnan(rows).any(1)])


def narrow(inflation: float, samples: int) -> None:
    """A row of a linear model with its exact log p(x) and a posterior that is too narrow."""
    torch.manual_seed(0)
    x_size, z_size, noise = 6, 2, 0.7

    def affine(in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> torch.nn.Module:
        return lb.networks.MLP(in_shape, out_shape, hidden=())

    model = lb.VAE(
        lb.priors.StandardNormal((z_size,)),
        lb.posteriors.FullNormal((x_size,), (z_size,), network=affine),
        lb.likelihoods.Normal((z_size,), (x_size,), scale=noise, network=affine),
    ).double()
    layer, encoder = model.likelihood.net.layers[0], model.posterior.net.layers[0]
    weight, bias = layer.weight.detach(), layer.bias.detach()
    weight *= 2
    truth = torch.distributions.MultivariateNormal(
        bias, weight @ weight.T + noise**2 * torch.eye(x_size, dtype=torch.float64)
    )
    x = truth.sample((60,))
    covariance = torch.linalg.inv(
        torch.eye(z_size, dtype=torch.float64) + weight.T @ weight / noise**2
    )
    gain, factor = covariance @ weight.T / noise**2, torch.linalg.cholesky(covariance) * inflation
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.weight[:z_size] = gain
        encoder.bias[:z_size] = -gain @ bias
        encoder.bias[z_size : 2 * z_size] = 2 * factor.diagonal().log()
        encoder.bias[2 * z_size :] = factor[1, 0]
    data = lb.data.from_arrays(x.numpy(), splits="all")
    result = lb.evaluate(model, data, split="all", samples=samples, curve=True)
    off = result.nll.value + float(truth.log_prob(x).mean())
    told = sum("nll" in words for words in result.warnings)
    print(
        f"{inflation:14} {samples:5} {result.heavy_tails.value:6.2f} {off:7.3f} "
        f"{result.curve[-1].remaining_bias:8.3f} {result.nll.stderr:8.3f} {told:8}",
        flush=True,
    )


def main() -> None:
    """Print a row for each data set, kind of model and seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="a folder of data sets")
    folder = parser.parse_args().data
    print("q narrower by  K     heavy  bias    rest     stderr   warned")
    for inflation in (0.2, 0.3, 0.4, 0.5):
        for samples in (100, 1000):
            narrow(inflation, samples)
    print("data           latent seed  heavy  fall     rest     stderr   fell to K = 5,000  warned")
    for name, data in data_sets(folder):
        kind = lb.likelihoods.Bernoulli if name == "digits" else lb.likelihoods.Normal
        for latent in (2, 16):
            for seed in SEEDS:
                torch.manual_seed(seed)
                model = lb.VAE(
                    lb.priors.StandardNormal((latent,)),
                    lb.posteriors.DiagonalNormal(data.event_shape, (latent,)),
                    kind((latent,), data.event_shape),
                )
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    lb.fit(model, lb.objectives.ELBO(), data, epochs=60, seed=seed, progress=False)
                few = lb.evaluate(model, data, samples=100, curve=True, seed=seed)
                many = lb.evaluate(model, data, samples=5000, seed=seed)
                last = few.curve[-1]
                fell = few.nll.value - many.nll.value
                told = sum("nll" in words for words in few.warnings)
                print(
                    f"{name:14} {latent:6} {seed:4} {few.heavy_tails.value:6.2f} "
                    f"{last.fall.short:>16} {last.remaining_bias:8.3f} {few.nll.stderr:8.3f} "
                    f"{fell:12.3f} {told:12}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
