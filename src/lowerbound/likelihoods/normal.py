"""p(x|z) = N(f(z), diag(sigma^2)): a density on the real line for each entry.

At fixed f the log-density is largest where sigma^2 is the mean squared residual over the entries that share it, so a
learned sigma weighs reconstruction against rate by the data and not by hand (sigma-VAE: Rybkin, Daniilidis and Levine 2021,
arXiv 2006.13202).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from lowerbound.networks import MLP
from lowerbound.roles import Context, Likelihood
from lowerbound.shapes import NetworkFactory, Shape, over_leading
from lowerbound.supports import REAL


class Normal(Likelihood):
    """Independent normal entries.

    Args:
        z_shape: Z, the event shape of the latent.
        x_shape: X, the event shape of the data.
        scale: a number fixes the standard deviation; "shared" learns one log-scale, "per_dimension" one for each entry of
            x; "network" lets the network give the log-scale of each entry.
        start: where a learned scale starts. Adam moves a log-scale by at most the learning rate in a step, so from 1 it
            takes thousands of steps to the 0.05 of sharp pictures in [0, 1]; a short run had better start near it.
        network: makes the module Z -> X, the mean, or Z -> (2, *X), mean and log-scale, where scale is "network". The mean
            is not squashed, whatever the range of the data.

    Raises:
        ValueError: a scale or a start that is not positive, a size below 1, or a network that returns another shape.

    Example:
        >>> from lowerbound.roles import Context
        >>> likelihood = Normal((2,), (3, 4, 4), scale=0.1)
        >>> px = likelihood(torch.zeros(7, 5, 2), Context())
        >>> likelihood.log_prob(px, torch.zeros(5, 3, 4, 4), None).shape
        torch.Size([7, 5])
    """

    def __init__(
        self,
        z_shape: Shape,
        x_shape: Shape,
        scale: float | Literal["shared", "per_dimension", "network"] = "shared",
        start: float = 1.0,
        network: NetworkFactory = MLP,
    ) -> None:
        super().__init__(z_shape, x_shape)
        learned = isinstance(scale, str) and scale in ("shared", "per_dimension", "network")
        if not learned and not (isinstance(scale, (int, float)) and 0 < scale < math.inf):
            raise ValueError(
                f"scale is {scale!r}: it must be a positive number, or 'shared', 'per_dimension' or 'network' to learn it"
            )
        if not 0 < start < math.inf:
            raise ValueError(f"start is {start}: a scale is a positive number")
        self.scale = scale
        self.start = start
        self.support = REAL
        self.network = network
        self.out_shape = (2, *self.x_shape) if scale == "network" else self.x_shape
        self.net = network(self.z_shape, self.out_shape)
        if scale != "network":
            log_scale = torch.tensor(math.log(start if isinstance(scale, str) else scale))
            log_scale = log_scale.expand(self.x_shape if scale == "per_dimension" else ()).clone()
            self.log_scale = nn.Parameter(log_scale, requires_grad=learned)

    def forward(self, z: Tensor, context: Context) -> Distribution:
        out = over_leading(self.net, z, self.z_shape, self.out_shape)
        if self.scale == "network":
            loc, relative = out.unbind(-len(self.x_shape) - 1)
            log_scale = relative + math.log(self.start)
        else:
            loc, log_scale = out, self.log_scale.expand_as(out)
        base = torch.distributions.Normal(loc, log_scale.exp(), validate_args=False)
        return Independent(base, len(self.x_shape), validate_args=False)
