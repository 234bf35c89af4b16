"""The same distribution with parameters that are constants: its density has a gradient in the value
alone.

    d log q(z; phi.detach()) / d phi = (d log q / d z) (d z / d phi),   where z = g(eps, phi)

which is the path gradient of what depends on phi through z (Roeder, Wu and Duvenaud 2017, arXiv
1703.09194).
"""

from __future__ import annotations

from torch.distributions import Distribution, Independent, Normal


def frozen(distribution: Distribution) -> Distribution | None:
    """The distribution with detached parameters; None where it is not known which they are, as
    those of a flow's networks.

    Example:
        >>> import torch
        >>> scale = torch.ones(3, requires_grad=True)
        >>> q = Independent(Normal(torch.zeros(3), scale), 1)
        >>> (
        ...     q.log_prob(torch.zeros(3)).requires_grad,
        ...     frozen(q).log_prob(torch.zeros(3)).requires_grad,
        ... )
        (True, False)
    """
    if type(distribution) is Independent:
        base = frozen(distribution.base_dist)
        return base and Independent(
            base, distribution.reinterpreted_batch_ndims, validate_args=False
        )
    # what is not torch's says so itself
    if callable(freeze := getattr(distribution, "frozen", None)):
        constant: Distribution = freeze()
        return constant
    if type(distribution) is Normal:
        return Normal(distribution.loc.detach(), distribution.scale.detach(), validate_args=False)
    return None
