"""Models whose evidence is known: by a formula, by numerical integration, or by enumeration."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, OneHotCategorical

import lowerbound as lb
from lowerbound.draw import Draw, Latent
from lowerbound.roles import Context, Likelihood


class Curved(Likelihood):
    """Bernoulli with logits that are no linear function of z: the posterior is neither normal nor of one mode."""

    def __init__(self, z_shape: tuple[int, ...], x_shape: tuple[int, ...]) -> None:
        super().__init__(z_shape, x_shape)
        self.support = lb.likelihoods.Bernoulli((1,), (1,)).support
        self.weight = nn.Parameter(torch.randn(2 * math.prod(z_shape), *x_shape))

    def forward(self, z: Tensor, context: Context) -> Distribution:
        features = torch.cat([2 * z, z.square() - 1], -1)
        return Independent(Bernoulli(logits=features @ self.weight, validate_args=False), 1, validate_args=False)


def on_a_grid(x_size: int = 5, n: int = 8) -> tuple[lb.VAE, Tensor, Tensor]:
    """A curved model with one latent in float64, examples drawn from it, and their log p(x) by numerical integration."""
    model = lb.VAE(
        lb.priors.StandardNormal((1,)), lb.posteriors.DiagonalNormal((x_size,), (1,)), Curved((1,), (x_size,))
    ).double()
    x, _ = model.dream(n)
    z = torch.linspace(-10, 10, 20001, dtype=torch.float64)[:, None, None].expand(-1, n, -1)
    with torch.no_grad():
        log_joint = model.log_joint(x, (z,))
    # the trapezoid rule on a smooth function that vanishes at both ends is right to machine precision
    return model, x, torch.logsumexp(log_joint, 0) + math.log(20 / 20000)


class Enumerated(nn.Module):
    """p(z) uniform over states, p(x|z) Bernoulli: each draw is all states, log m_k = log q(z_k|x)."""

    def __init__(self, states: int = 4, x_size: int = 5) -> None:
        super().__init__()
        self.prior = torch.softmax(torch.randn(states, dtype=torch.float64), 0)
        self.probs = torch.rand(states, x_size, dtype=torch.float64)
        self.encoder = torch.randn(x_size, states, dtype=torch.float64)

    def forward(self, x: Tensor, context: Context | None = None, samples: int = 1) -> Draw:
        states = len(self.prior)
        qz, pz = OneHotCategorical(logits=x.double() @ self.encoder), OneHotCategorical(self.prior)
        z = torch.eye(states, dtype=torch.float64)[:, None].expand(-1, len(x), -1)
        log_q = qz.log_prob(z)
        px = Independent(Bernoulli(self.probs[:, None].expand(-1, len(x), -1)), 1)
        return Draw((Latent(qz, pz, z, log_q, pz.log_prob(z), None),), px, px.log_prob(x), log_q)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x) by the sum over the states."""
        log_px = torch.stack([Independent(Bernoulli(p), 1).log_prob(x.double()) for p in self.probs])
        return torch.logsumexp(self.prior.log()[:, None] + log_px, 0)


class Sampled(Enumerated):
    """The same model with draws from q(z|x) instead of all states."""

    def forward(self, x: Tensor, context: Context | None = None, samples: int = 1) -> Draw:
        qz, pz = OneHotCategorical(logits=x.double() @ self.encoder), OneHotCategorical(self.prior)
        z = qz.sample((samples,))
        px = Independent(Bernoulli(z @ self.probs), 1)
        log_px = px.log_prob(x)
        latent = Latent(qz, pz, z, qz.log_prob(z), pz.log_prob(z), None)
        return Draw((latent,), px, log_px, torch.full_like(log_px, -math.log(samples)))
