import torch
from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from tests.contracts import LikelihoodContract


class TestContinuousBernoulli(LikelihoodContract):
    make = staticmethod(lb.likelihoods.ContinuousBernoulli)

    def total_probability(self, px: Distribution) -> Tensor:
        return torch.trapezoid(px.log_prob(torch.linspace(0, 1, 1001)[:, None]).exp(), dx=1e-3, dim=0)
