import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.roles import Context, Likelihood
from lowerbound.shapes import Shape
from tests.contracts import LikelihoodContract
from tests.quadrature import everywhere


class TestCategorical(LikelihoodContract):
    def make(self, z_shape: Shape, x_shape: Shape) -> Likelihood:
        return lb.likelihoods.Categorical(z_shape, x_shape, levels=17)

    def quadrature(self, px: Distribution) -> tuple[Tensor, Tensor]:
        return everywhere(px, torch.linspace(0, 1, 17), torch.ones(17))

    def test_takes_the_256_levels_of_8_bit_pixels(self) -> None:
        part = lb.likelihoods.Categorical((2,), (1, 4, 4), levels=256)
        x = torch.randint(0, 256, (5, 1, 4, 4)) / 255
        px = part(torch.zeros(1, 5, 2), Context())
        index = (x * 255).round().long()
        by_hand = px.base_dist.categorical.logits[0].gather(-1, index[..., None]).sum((1, 2, 3, 4))
        assert torch.allclose(part.log_prob(px, x, None)[0], by_hand, atol=1e-3)

    def test_refuses_a_single_level(self) -> None:
        with pytest.raises(ValueError, match="at least 2"):
            lb.likelihoods.Categorical((2,), (4,), levels=1)
