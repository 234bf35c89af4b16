import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.roles import Context
from tests.contracts import LikelihoodContract
from tests.quadrature import total_probability, unit_interval


class TestBinaryCrossEntropy(LikelihoodContract):
    make = staticmethod(lb.likelihoods.BinaryCrossEntropy)

    def quadrature(self, px: Distribution) -> tuple[Tensor, Tensor]:
        return unit_interval(px)

    def test_at_one_half_it_integrates_to_one_half(self) -> None:
        part = self.make((3,), ())
        torch.nn.init.zeros_(part.net.layers[-1].weight)
        torch.nn.init.zeros_(part.net.layers[-1].bias)
        px = part(torch.zeros(1, 3), Context())
        assert total_probability(px.log_prob, self.quadrature(px), ()).item() == pytest.approx(
            0.5, abs=1e-6
        )

    def test_is_the_cross_entropy_of_grey_values(self) -> None:
        part = self.make((3,), (4,))
        px = part(torch.randn(7, 5, 3), Context())
        x = torch.rand(5, 4)
        expected = -torch.nn.functional.binary_cross_entropy(
            px.mean, x.expand(7, 5, 4), reduction="none"
        ).sum(-1)
        assert torch.allclose(part.log_prob(px, x, None), expected, atol=1e-4)
