from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from tests.contracts import LikelihoodContract
from tests.quadrature import unit_interval


class TestContinuousBernoulli(LikelihoodContract):
    make = staticmethod(lb.likelihoods.ContinuousBernoulli)

    def quadrature(self, px: Distribution) -> tuple[Tensor, Tensor]:
        return unit_interval(px)
