from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.roles import Context, Posterior
from lowerbound.shapes import Shape
from tests.contracts import PriorContract
from tests.quadrature import everywhere


class TestBernoulli(PriorContract):
    make = staticmethod(lambda z_shape: lb.priors.Bernoulli(z_shape, learned=True))

    def posterior(self, z_shape: Shape) -> Posterior:
        return lb.posteriors.Bernoulli((4,), z_shape, draws="enumerated")

    def quadrature(self, pz: Distribution) -> tuple[Tensor, Tensor]:
        return everywhere(pz, [0.0, 1.0], [1.0, 1.0])


def test_unless_it_is_learned_every_code_is_as_probable() -> None:
    prior = lb.priors.Bernoulli((3,))
    assert not list(prior.parameters())
    assert torch.allclose(prior(Context()).log_prob(torch.eye(3)).exp(), torch.tensor(1 / 8))
