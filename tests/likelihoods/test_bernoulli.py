import torch
from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from tests.contracts import LikelihoodContract


class TestBernoulli(LikelihoodContract):
    make = staticmethod(lb.likelihoods.Bernoulli)

    def total_probability(self, px: Distribution) -> Tensor:
        return px.log_prob(torch.tensor(0.0)).exp() + px.log_prob(torch.tensor(1.0)).exp()
