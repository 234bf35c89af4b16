"""p(x|z) = prod_d NB(x_d; mu_d, alpha_d) for counts x in {0, 1, 2, ...}, with mu = exp(b + f(z)).

    NB(x; mu, alpha) = Gamma(x + r) / (Gamma(r) x!) (r / (r + mu))^r (mu / (r + mu))^x,    r = 1 /
    alpha E[x_d|z] = mu_d,    Var[x_d|z] = mu_d + alpha_d mu_d^2

The dispersion alpha is learned and not r, since the Poisson, alpha = 0, is then a number and not at
infinity.

The mean is the exponential of the network, and not its softplus. What changes counts multiplies
them; the logarithm that the density needs is there without taking one; and the derivative of log
p(x|z) in f is (x - mu) / (1 + alpha mu), which lies between -1/alpha and x however far off f is,
where the exponential by itself would make steps without bound.

The base b is no parameter: before the first step it is set to the log-mean of the training
examples, and alpha to the dispersion that the moments of the training examples give, so that counts
in the thousands start at their own scale.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from lowerbound import distributions
from lowerbound.conditions import Condition
from lowerbound.distributions.negative_binomial import POISSON
from lowerbound.likelihoods._scale import LearnedScale, Spread
from lowerbound.networks import MLP
from lowerbound.roles import Context, Likelihood
from lowerbound.shapes import NetworkFactory, Shape
from lowerbound.supports import COUNTS

# log alpha has some nats to go, from the dispersion of all examples to that of one given z: learned
# in fifths, at a learning rate of 1e-3 that is some hundreds of steps.
PACE = 5.0
# where alpha may start: far below, it has no gradient, for the likelihood is a Poisson's
DISPERSIONS = (0.01, 100.0)


class NegativeBinomial(Likelihood):
    """Independent counts whose variance exceeds their mean. Its support is {0, 1, 2, ...}: negative
    integers are refused.

    The buffers ``base`` and ``log_start`` (*X), zero at first, are log-mean and log-dispersion
    where network and parameter say nothing. fit sets them before the first step of a model whose
    base is still zero; they are saved with the weights. An entry that was never above zero in
    training starts at half a count in all examples.

    Args:
        z_shape: Z, the event shape of the latent.
        x_shape: X, the event shape of the data.
        dispersion: alpha in the variance mu + alpha mu^2. A number fixes it, and 0 is the Poisson;
            "shared" learns one, "per_dimension" one for each entry of x; "network" lets the network
            give that of each entry.
        network: makes the module Z -> X, the log-mean relative to the base, or Z -> (2, *X),
            log-mean and log-dispersion, where dispersion is "network".

    Raises:
        ValueError: a dispersion that is negative, a size below 1, or a network that returns another
            shape.

    Example:
        >>> from lowerbound.roles import Context
        >>> likelihood = NegativeBinomial((2,), (4,), dispersion=0.5)
        >>> likelihood.prepare(torch.tensor([[1000.0, 0.0, 3.0, 2.0], [3000.0, 0.0, 1.0, 2.0]]))
        >>> likelihood.base.exp()
        tensor([2.0000e+03, 2.5000e-01, 2.0000e+00, 2.0000e+00])
        >>> px = likelihood(torch.zeros(7, 5, 2), Context())
        >>> likelihood.log_prob(px, torch.ones(5, 4), None).shape
        torch.Size([7, 5])
    """

    base: Tensor
    log_start: Tensor

    def __init__(
        self,
        z_shape: Shape,
        x_shape: Shape,
        dispersion: Spread = "per_dimension",
        network: NetworkFactory = MLP,
        condition: Condition = None,
    ) -> None:
        super().__init__(z_shape, x_shape, condition)
        self.dispersion = dispersion
        self.learned_dispersion = LearnedScale(
            dispersion,
            self.x_shape,
            PACE,
            name="dispersion",
            numbers="a number that is not negative (0 is the Poisson)",
            log_of_zero=POISSON,
        )
        self.support = COUNTS
        self.network = network
        self.net = network(self.conditioned_input.in_shape, self.learned_dispersion.out_shape)
        self.register_buffer("base", torch.zeros(self.x_shape))
        self.register_buffer("log_start", torch.zeros(self.x_shape))

    def prepare(self, x: Tensor) -> None:
        # a model that has been trained before keeps what its weights are relative to
        if self.base.any():
            return
        mean = x.mean(0, dtype=torch.float64)
        excess = x.double().var(0, correction=0) - mean
        square = mean**2
        if self.dispersion == "shared":
            excess, square = excess.sum(), square.sum()
        self.base.copy_(mean.clamp(min=0.5 / len(x)).log())
        self.log_start.copy_((excess / square).nan_to_num(1.0).clamp(*DISPERSIONS).log())

    @property
    def log_dispersion(self) -> Tensor:
        """Log alpha where it does not come from the network, () or X."""
        return self.learned_dispersion.log_scale(self.log_start)

    def forward(self, z: Tensor, context: Context) -> Distribution:
        out = self.conditioned_input.through(
            self.net, z, context.y, self.learned_dispersion.out_shape
        )
        relative, log_alpha = self.learned_dispersion(out, self.log_start)
        base = distributions.NegativeBinomial(self.base + relative, log_alpha)
        return Independent(base, len(self.x_shape), validate_args=False)
