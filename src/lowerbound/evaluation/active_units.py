"""Active units: the latent dimensions that carry information about x (Burda, Grosse and
Salakhutdinov 2015, 1509.00519).

Dimension d is active when Var_x(E_q[z_d|x]) > 0.01: its posterior mean moves with x. A variable of
C categories is one dimension, and its variance the sum of those of its C probabilities.
"""

from __future__ import annotations

from torch import Tensor

ACTIVE = 0.01  # the threshold of the paper; dimensions lie far to one side of it or the other


def active_units(means: Tensor, noise: Tensor | None = None) -> int:
    """The number of active dimensions, from the posterior means of n examples, (n, dimensions, C),
    or (n, dimensions).

    Args:
        means: of n examples.
        noise: how much each varies by chance where it is an average over draws, (n, *Z), which is
            taken off the variance.

    Example:
        >>> import torch
        >>> active_units(torch.stack([torch.linspace(-1, 1, 100), torch.zeros(100)], dim=1))
        1
    """
    if len(means) < 2:
        return 0  # one example shows no variation
    by_chance = (
        0.0 if noise is None else noise.cpu().double().reshape(*means.shape[:2], -1).mean(0).sum(-1)
    )
    return int((variance(means) - by_chance > ACTIVE).sum())


def variance(means: Tensor) -> Tensor:
    """How much the posterior mean of each dimension varies over x: (n, dimensions, C) or (n,
    dimensions) -> (dimensions,).

    Example:
        >>> import torch
        >>> variance(
        ...     torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
        ... )  # one variable of two categories, and two examples
        tensor([1.], dtype=torch.float64)
    """
    return means.cpu().double().reshape(len(means), means.shape[1], -1).var(0).sum(-1)
