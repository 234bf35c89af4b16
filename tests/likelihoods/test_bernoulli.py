from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from tests.contracts import LikelihoodContract, everywhere


class TestBernoulli(LikelihoodContract):
    make = staticmethod(lb.likelihoods.Bernoulli)

    def quadrature(self, px: Distribution) -> tuple[Tensor, Tensor]:
        return everywhere(px, [0.0, 1.0], [1.0, 1.0])
