"""q(z|x): z_0 = mu(x) + sigma(x) eps, then z_t = g_t z_{t-1} + (1 - g_t) m_t, with g_t and m_t from
autoregressive networks.

Entry d of g_t and m_t sees the entries of z_{t-1} before d (after d in every second step) and a
context h(x), so that a step's Jacobian is triangular:

    log q(z_T|x) = log N(eps; 0, I) - sum_d log sigma_d - sum_t sum_d log g_td

A draw and its density take one pass. At any other z the steps are inverted entry by entry, one pass
for each: exact, and slow.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.distributions import Distribution

from lowerbound.conditions import Condition
from lowerbound.distributions import Flow
from lowerbound.distributions.bijections import Generating, autoregressive
from lowerbound.networks import MLP
from lowerbound.roles import Context, Posterior
from lowerbound.shapes import NetworkFactory, Shape, numel
from lowerbound.units import Standardizer


class InverseAutoregressive(Posterior):
    """An inverse autoregressive flow (Kingma et al. 2016, arXiv 1606.04934), with the gated steps
    of the paper.

    Its mean has no formula: ``encode`` and ``reconstruct`` average draws. Path gradients, annealing
    and a VampPrior evaluate it at given z, with one pass for each entry of z. Needs zuko:
    ``pip install "lowerbound[flows]"``.

    Args:
        x_shape: X, the event shape of the data.
        z_shape: Z, the event shape of the latent, with n values.
        layers: the number of autoregressive steps; the order of the entries is reversed after each.
        hidden: units of each hidden layer of a step's network.
        context_size: size of h(x), by which the steps learn of x.
        network: makes the module X -> (2 n + context_size,): mean, log-variances and h.

    Raises:
        ImportError: zuko is not installed.
        ValueError: no layer, no context, a size below 1, or a network that returns another shape.

    Example:
        >>> import torch
        >>> qz = InverseAutoregressive((1, 8, 8), (16,))(torch.rand(5, 1, 8, 8), Context())
        >>> z = qz.rsample((7,))
        >>> torch.allclose(qz.log_prob(z), qz.log_prob(z.clone()), atol=1e-3)
        True
    """

    def __init__(
        self,
        x_shape: Shape,
        z_shape: Shape,
        layers: int = 2,
        hidden: Sequence[int] = (128,),
        context_size: int = 64,
        network: NetworkFactory = MLP,
        condition: Condition = None,
    ) -> None:
        super().__init__(x_shape, z_shape, condition)
        self.layers = layers
        self.hidden = tuple(hidden)
        self.context_size = context_size
        self.n = numel(self.z_shape)
        self.steps = autoregressive(self.n, context_size, layers, self.hidden)
        self.standardizer = Standardizer(self.x_shape)
        self.network = network
        self.net = network(self.conditioned_input.in_shape, (2 * self.n + context_size,))

    def forward(self, x: Tensor, context: Context) -> Distribution:
        out_shape = (2 * self.n + self.context_size,)
        out = self.conditioned_input.through(
            self.net, self.standardizer.standardize(x, context.mask), context.y, out_shape
        )
        loc, log_variance, h = out.split([self.n, self.n, self.context_size], -1)
        steps, scale = Generating(self.steps(h)), (0.5 * log_variance).exp()
        return Flow(steps, loc, scale, self.z_shape, passes=self.n * self.layers)
