"""Models whose evidence is known: by a formula, by numerical integration, or by enumeration."""

from __future__ import annotations

import copy
import itertools
import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal

import lowerbound as lb
from lowerbound.codes import CodeSampling
from lowerbound.draw import Draw, Latent
from lowerbound.roles import Context, Likelihood


class Curved(Likelihood):
    """Bernoulli with logits that are no linear function of z: the posterior is neither normal nor
    of one mode.
    """

    def __init__(self, z_shape: tuple[int, ...], x_shape: tuple[int, ...]) -> None:
        super().__init__(z_shape, x_shape)
        self.support = lb.likelihoods.Bernoulli((1,), (1,)).support
        self.weight = nn.Parameter(torch.randn(2 * math.prod(z_shape), *x_shape))

    def forward(self, z: Tensor, context: Context) -> Distribution:
        features = torch.cat([2 * z, z.square() - 1], -1)
        return Independent(
            Bernoulli(logits=features @ self.weight, validate_args=False), 1, validate_args=False
        )


def on_a_grid(x_size: int = 5, n: int = 8) -> tuple[lb.VAE, Tensor, Tensor]:
    """A curved model with one latent in float64, examples drawn from it, and their log p(x) by
    numerical integration.
    """
    model = lb.VAE(
        lb.priors.StandardNormal((1,)),
        lb.posteriors.DiagonalNormal((x_size,), (1,)),
        Curved((1,), (x_size,)),
    ).double()
    x, _ = model.sample_joint(n)
    z = torch.linspace(-10, 10, 20001, dtype=torch.float64)[:, None, None].expand(-1, n, -1)
    with torch.no_grad():
        log_joint = model.log_joint(x, (z,))
    # the trapezoid rule on a smooth function that vanishes at both ends is right to machine
    # precision
    return model, x, torch.logsumexp(log_joint, 0) + math.log(20 / 20000)


def finite(
    z_shape: tuple[int, ...] = (4,), x_size: int = 5, draws: CodeSampling = "enumerated"
) -> lb.VAE:
    """A model of categorical codes in float64, far from where it starts, with linear networks."""
    network = partial(lb.networks.MLP, hidden=())
    model = lb.VAE(
        lb.priors.Categorical(z_shape, learned=True),
        lb.posteriors.Categorical((x_size,), z_shape, draws=draws, network=network),
        lb.likelihoods.Bernoulli(z_shape, (x_size,), network=network),
    ).double()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_()
    return model


def drawing(model: lb.VAE, draws: CodeSampling) -> lb.VAE:
    """The same weights with codes that are drawn in another way."""
    other = finite(model.z_shape, *model.x_shape, draws)
    other.load_state_dict(model.state_dict())
    return other


def log_evidence(model: lb.VAE, x: Tensor) -> Tensor:
    """log p(x) of a model of one categorical code or more, by the sum over all of them, one after
    the other.
    """
    n, categories = math.prod(model.z_shape[:-1]), model.z_shape[-1]
    terms = []
    for chosen in itertools.product(range(categories), repeat=n):
        z = torch.zeros(n, categories, dtype=x.dtype)
        for i, c in enumerate(chosen):
            z[i, c] = 1
        terms.append(
            model.log_joint(x, (z.reshape(model.z_shape).expand(1, len(x), *model.z_shape),))[0]
        )
    return torch.logsumexp(torch.stack(terms), 0)


class TwoLatents(nn.Module):
    """p(z_1) p(z_2|z_1) p(x|z_1, z_2) and q(z_1|x) q(z_2|z_1), linear and normal, in float64; q is
    not exact.
    """

    def __init__(self, x_size: int = 4) -> None:
        super().__init__()
        self.posterior = nn.ModuleList([nn.Linear(x_size, 2), nn.Linear(2, 3)]).double()
        self.likelihood = nn.ModuleList([nn.Linear(2, 3), nn.Linear(5, x_size)]).double()
        self.posterior[1].weight.data *= 3  # the second latent depends on the first

    def _top(self, x: Tensor) -> Distribution:
        return Independent(Normal(self.posterior[0](x), 0.8), 1)

    def _below(self, above: Tensor) -> Distribution:
        return Independent(Normal(self.posterior[1](above), 0.9), 1)

    def forward(
        self,
        x: Tensor,
        context: Context | None = None,
        samples: int = 1,
        path_gradient: bool = False,
    ) -> Draw:
        q_top = self._top(x)
        drawn_top = q_top.rsample((samples,))
        q_below = self._below(drawn_top)
        drawn_below = q_below.rsample()
        # the densities see aliases: what is done to the gradient there is not done again on the way
        # from one to the other
        top, below = drawn_top.view_as(drawn_top), drawn_below.view_as(drawn_below)
        frozen = copy.deepcopy(self).requires_grad_(False) if path_gradient else self
        p_top = Independent(Normal(torch.zeros(2).double(), 1.0), 1)
        p_below = Independent(Normal(self.likelihood[0](top), 0.7), 1)
        px = Independent(Normal(self.likelihood[1](torch.cat([top, below], -1)), 0.6), 1)
        log_px = px.log_prob(x)
        latents = (
            Latent(q_top, p_top, top, None, scored=frozen._top(x)),
            Latent(q_below, p_below, below, None, scored=frozen._below(top)),
        )
        return Draw(latents, px, log_px, torch.full_like(log_px.detach(), -math.log(samples)))
