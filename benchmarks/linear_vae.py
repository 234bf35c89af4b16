"""A trained linear VAE against probabilistic PCA in closed form, on MNIST: is the optimum reached,
and is it the bound's?

    python benchmarks/linear_vae.py

A linear VAE with one learned scale is probabilistic PCA (Tipping and Bishop 1999): the maximum
likelihood is known from the eigenvalues of the covariance, and at it the bound is tight (Lucas et
al. 2019, arXiv 1911.02469). The recipe linear-vae is trained with 10 and 50 latent dimensions, and
log p(x) of what was learned computed exactly from its weights. Takes about two minutes on two
cores; exits with 1 where a mean is further from the optimum than 0.5 (k = 10) or 1.5 nats (k = 50).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from sklearn.decomposition import PCA
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal

import lowerbound as lb
from lowerbound.cli import main

TOLERANCE = {10: 0.5, 50: 1.5}  # nats
SPLITS = ("train", "test")


def marginal(model: lb.VAE) -> LowRankMultivariateNormal:
    """p(x) = N(b, W W' + sigma^2 I) of a linear VAE, read off its decoder: its value at 0 and at
    the unit vectors.
    """
    with torch.no_grad():
        z = torch.cat([torch.zeros(1, *model.z_shape), torch.eye(*model.z_shape)])
        mean = model.decode(z).double().flatten(1)
        scale = model.likelihood(z[:1], lb.roles.Context()).stddev.double().flatten()
    bias, weight = mean[0], (mean[1:] - mean[0]).T
    return LowRankMultivariateNormal(bias, weight, scale**2)


def optimum(x: Tensor, k: int) -> MultivariateNormal:
    """The maximum likelihood: the k leading directions, and the mean of the other eigenvalues as
    the variance.
    """
    mean = x.mean(0)
    covariance = (x - mean).T @ (x - mean) / len(x)
    values, vectors = torch.linalg.eigh(covariance)
    variance = values[:-k].mean()
    leading = vectors[:, -k:]
    w = leading * (values[-k:] - variance).sqrt()
    return MultivariateNormal(mean, w @ w.T + variance * torch.eye(len(mean), dtype=x.dtype))


def row(k: int, folder: Path) -> bool:
    out = folder / str(k)
    arguments = [
        "train",
        "--config",
        "linear-vae",
        "--latent",
        str(k),
        "--out",
        str(out),
        "--quiet",
        "--no-report",
    ]
    if code := main(arguments):
        sys.exit(code)
    model = lb.load(out)
    data = lb.data.load("mnist", splits="train_test")
    x = {split: data.examples(split).double().flatten(1) for split in SPLITS}
    best, learned = optimum(x["train"], k), marginal(model)
    pca = PCA(k, svd_solver="covariance_eigh").fit(x["train"].numpy())
    good = True
    for split in SPLITS:
        exact = learned.log_prob(x[split])
        ours = lb.Estimate.over(exact)
        most = best.log_prob(x[split]).mean()
        elbo = lb.evaluate(model, data, split, samples=10).elbo
        short = float(most - exact.mean())
        good &= abs(short) < TOLERANCE[k]
        print(
            f"{k:>3}  {split:<5}  {float(most):>8.2f}  {pca.score(x[split].numpy()):>8.2f}  "
            f"{ours.short:>14}  {short:>6.2f}  {elbo.short:>14}  {ours.value - elbo.value:>6.2f}"
        )
    return good


def run() -> bool:
    print("  k  split   optimum   PCA(k)   log p(x), exact   short            ELBO   lost")
    with tempfile.TemporaryDirectory() as folder:
        return min([row(k, Path(folder)) for k in TOLERANCE])


if __name__ == "__main__":
    sys.exit(not run())
