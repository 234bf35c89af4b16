"""A categorical distribution over the unit vectors e_1 .. e_C, with log p(z) = sum_c z_c log p_c.

At unit vectors that is torch's ``OneHotCategorical``; written as a sum, it has a gradient in z too,
which straight-through draws need.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributions import OneHotCategorical


class OneHot(OneHotCategorical):
    """One category of C as a unit vector; arguments as torch's.

    Example:
        >>> import torch
        >>> p = OneHot(probs=torch.tensor([0.2, 0.8]))
        >>> p.log_prob(torch.eye(2)).exp()
        tensor([0.2000, 0.8000])
    """

    def log_prob(self, value: Tensor) -> Tensor:
        # a probability that rounds to zero has a logit of -inf, and 0 * -inf is nan
        return (value * self.logits.clamp_min(-1e4)).sum(-1)
