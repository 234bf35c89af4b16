"""A categorical distribution over L grey levels placed on the unit grid {0, 1/(L-1), ..., 1}.

P(x = l/(L-1)) = softmax(logits)_l. Unlike ``torch.distributions.Categorical``, whose outcomes are
mere names, the levels are numbers, so that the distribution has a mean and a variance and shares
its x with every other likelihood.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution
from torch.distributions.constraints import Constraint

from lowerbound.supports import Levels


class LevelCategorical(Distribution):
    """Independent levels, one for each position in front of the last dimension of ``logits``.

    Args:
        logits: (..., L), any reals.

    Example:
        >>> px = LevelCategorical(torch.zeros(17))
        >>> px.mean, px.log_prob(torch.tensor(0.25)).exp()
        (tensor(0.5000), tensor(0.0588))
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    has_rsample = False

    def __init__(self, logits: Tensor) -> None:
        self.categorical = Categorical(logits=logits, validate_args=False)
        self.levels = logits.shape[-1]
        super().__init__(batch_shape=logits.shape[:-1], validate_args=False)

    @property
    def support(self) -> Constraint:
        return Levels(self.levels)

    @property
    def _grid(self) -> Tensor:
        logits = self.categorical.logits
        return torch.linspace(0, 1, self.levels, dtype=logits.dtype, device=logits.device)

    @property
    def mean(self) -> Tensor:
        return (self.categorical.probs * self._grid).sum(-1)

    @property
    def variance(self) -> Tensor:
        # about the mean: the difference of two squares can round below zero where one level has
        # nearly all the mass
        return (self.categorical.probs * (self._grid - self.mean[..., None]) ** 2).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        log_p: Tensor = self.categorical.log_prob((value * (self.levels - 1)).round().long())
        return log_p

    # torch says Size alone
    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        return self._grid[self.categorical.sample(torch.Size(sample_shape))]
