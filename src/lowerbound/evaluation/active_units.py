"""Active units: the latent dimensions that carry information about x (Burda, Grosse and Salakhutdinov 2015, 1509.00519).

Dimension d is active when Var_x(E_q[z_d|x]) > 0.01: its posterior mean moves with x.
"""

from __future__ import annotations

from torch import Tensor

ACTIVE = 0.01  # the threshold of the paper; dimensions lie far to one side of it or the other


def active_units(means: Tensor, noise: Tensor | None = None) -> int:
    """The number of active dimensions, from the posterior means of n examples, (n, *Z).

    Args:
        means: of n examples.
        noise: how much each varies by chance where it is an average over draws, (n, *Z), which is taken off the variance.

    Example:
        >>> import torch
        >>> active_units(torch.stack([torch.linspace(-1, 1, 100), torch.zeros(100)], dim=1))
        1
    """
    if len(means) < 2:
        return 0  # one example shows no variation
    variance = means.cpu().double().var(0)
    return int((variance - (0.0 if noise is None else noise.cpu().double().mean(0)) > ACTIVE).sum())
