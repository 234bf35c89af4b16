"""Active units: the latent dimensions that carry information about x (Burda, Grosse and Salakhutdinov 2015, 1509.00519).

Dimension d is active when Var_x(E_q[z_d|x]) > 0.01: its posterior mean moves with x.
"""

from __future__ import annotations

from torch import Tensor

ACTIVE = 0.01  # the threshold of the paper; dimensions lie far to one side of it or the other


def active_units(means: Tensor) -> int:
    """The number of active dimensions, from the posterior means of n examples, (n, *Z).

    Example:
        >>> import torch
        >>> active_units(torch.stack([torch.linspace(-1, 1, 100), torch.zeros(100)], dim=1))
        1
    """
    if len(means) < 2:
        return 0  # one example shows no variation
    return int((means.cpu().double().var(0) > ACTIVE).sum())
