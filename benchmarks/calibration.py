"""How often a stated 95 % interval holds the truth, over 2,000 fresh test sets from a model whose
truth is known.

    python benchmarks/calibration.py [REPETITIONS]

A linear VAE with its exact posterior is probabilistic PCA: the expectations of nll, elbo, rate and
distortion over data from the model are known in closed form. Each repetition draws a test set,
evaluates it as anyone would, and asks whether value ± 1.96 stderr holds the truth. Takes two
minutes; exits with 1 where a share is outside 93.5 to 96.5 %.
"""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal

import lowerbound as lb
from lowerbound.roles import Context, Posterior

D, Z, SIGMA = 6, 2, 0.5
EXAMPLES = 200  # of each test set
SAMPLES = 5  # importance samples; with the exact posterior the bound is tight for any number


class Exact(Posterior):
    """p(z|x) of a linear model: N(S W'(x - b) / sigma^2, S) with S = (I + W'W / sigma^2)^-1."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__((D,), (Z,))
        self.covariance = torch.linalg.inv(torch.eye(Z) + weight.T @ weight / SIGMA**2)
        self.matrix = nn.Parameter(self.covariance @ weight.T / SIGMA**2)
        self.bias = bias

    def forward(self, x: Tensor, context: Context) -> Distribution:
        scale = torch.linalg.cholesky(self.covariance)
        return MultivariateNormal(
            (x - self.bias) @ self.matrix.T, scale_tril=scale.expand(len(x), Z, Z)
        )


def known() -> tuple[lb.VAE, dict[str, float]]:
    """The model, and the expectations of what is measured over data from it, in nats."""

    def affine(in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> nn.Module:
        return lb.networks.MLP(in_shape, out_shape, hidden=())

    likelihood = lb.likelihoods.Normal((Z,), (D,), scale=SIGMA, network=affine)
    layer = likelihood.net.layers[0]
    with torch.no_grad():
        layer.weight.mul_(3)
    weight, bias = layer.weight.detach(), layer.bias.detach()
    posterior = Exact(weight, bias)
    covariance = weight @ weight.T + SIGMA**2 * torch.eye(D)
    nll = 0.5 * (D * math.log(2 * math.pi * math.e) + torch.logdet(covariance))
    second = posterior.matrix.detach() @ covariance @ posterior.matrix.detach().T  # E[m m'] over x
    s = posterior.covariance
    rate = 0.5 * (s.trace() + second.trace() - Z - torch.logdet(s))
    truth = {
        "nll": float(nll),
        "elbo": -float(nll),
        "rate": float(rate),
        "distortion": float(nll - rate),
    }
    return lb.VAE(lb.priors.StandardNormal((Z,)), posterior, likelihood), truth


def coverage(repetitions: int, seed: int = 0) -> dict[str, float]:
    """The share of repetitions in which the interval holds the truth, by quantity."""
    torch.manual_seed(seed)
    model, truth = known()
    held = dict.fromkeys(truth, 0)
    for repetition in range(repetitions):
        x, _ = model.sample_joint(EXAMPLES)
        data = lb.data.from_arrays(x.numpy(), splits="all")
        result = lb.evaluate(model, data, split="all", samples=SAMPLES, seed=repetition)
        for name, value in truth.items():
            low, high = getattr(result, name).interval
            held[name] += low <= value <= high
    return {name: count / repetitions for name, count in held.items()}


def run(repetitions: int) -> bool:
    shares = coverage(repetitions)
    print(
        f"{repetitions:,} test sets of {EXAMPLES} examples; a fair interval gives 95 %, ± "
        f"{band(repetitions):.1%}"
    )
    for name, share in shares.items():
        print(f"{name:>10}  {share:.2%}")
    return all(0.935 <= share <= 0.965 for share in shares.values())


def band(repetitions: int) -> float:
    """One standard error of the share itself."""
    return math.sqrt(0.95 * 0.05 / repetitions)


if __name__ == "__main__":
    sys.exit(not run(int(sys.argv[1]) if len(sys.argv) > 1 else 2000))
