"""A prior of spline couplings; what it shares with affine couplings is tested with those
(test_realnvp.py).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.roles import Context
from tests.contracts import PriorContract, moved
from tests.quadrature import real_line


class TestNeuralSpline(PriorContract):
    make = staticmethod(partial(lb.priors.NeuralSpline, layers=2, hidden=(16,)))
    tolerance = 1e-3

    def quadrature(self, pz: Distribution) -> tuple[Tensor, Tensor]:
        return real_line(pz, 401)


def test_beyond_its_knots_it_is_a_standard_normal() -> None:
    pz = moved(lb.priors.NeuralSpline((1,)))(Context())
    z = torch.tensor([[-9.0], [-5.5], [5.5], [20.0]])
    known = lb.priors.StandardNormal((1,))(Context())
    assert torch.allclose(pz.log_prob(z), known.log_prob(z))
    assert not torch.allclose(pz.log_prob(z / 10), known.log_prob(z / 10))
