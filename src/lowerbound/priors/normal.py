"""p(z) = N(mu, Sigma) with learned mean and covariance, diagonal or full.

A full covariance is Sigma = L L', with L lower triangular and its diagonal positive (Cholesky
factor).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.distributions import Distribution, Independent
from torch.distributions import Normal as TorchNormal

from lowerbound.distributions import FullNormal
from lowerbound.roles import Context, Posterior, Prior
from lowerbound.shapes import Shape, numel


class Normal(Prior):
    """A normal prior with learned mean and covariance; it starts as the standard normal.

    A learned normal prior changes nothing that the networks could not undo, since any N(mu, Sigma)
    is a linear map of the standard normal; it lets the aggregate posterior keep its own location,
    scale and correlations.

    Args:
        z_shape: Z, the event shape of the latent, with n values.
        covariance: "diagonal" learns n log-scales, "full" a Cholesky factor with n (n + 1) / 2
            entries.

    Raises:
        ValueError: another covariance, or a latent size below 1.

    Example:
        >>> from lowerbound.roles import Context
        >>> prior = Normal((3,), covariance="full")
        >>> prior(Context()).log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    def __init__(
        self, z_shape: Shape, covariance: Literal["diagonal", "full"] = "diagonal"
    ) -> None:
        super().__init__(z_shape)
        if covariance not in ("diagonal", "full"):
            raise ValueError(f"covariance is {covariance!r}; there is 'diagonal' and 'full'")
        self.covariance = covariance
        n = numel(self.z_shape)
        self.loc = nn.Parameter(torch.zeros(self.z_shape))
        self.log_scale = nn.Parameter(torch.zeros(self.z_shape))
        if covariance == "full":
            self.below_diagonal = nn.Parameter(torch.zeros(n * (n - 1) // 2), requires_grad=n > 1)

    def forward(self, context: Context, posterior: Posterior | None = None) -> Distribution:
        scale = self.log_scale.exp()
        if self.covariance == "diagonal":
            return Independent(
                TorchNormal(self.loc, scale, validate_args=False),
                len(self.z_shape),
                validate_args=False,
            )
        scale_tril = torch.diag(scale.flatten())
        n = len(scale_tril)
        rows, columns = torch.tril_indices(n, n, -1, device=scale.device)
        return FullNormal(
            self.loc, scale_tril.index_put((rows, columns), self.below_diagonal), self.z_shape
        )
