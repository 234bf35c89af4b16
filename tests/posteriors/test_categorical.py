from __future__ import annotations

import pytest
import torch
from torch import Tensor

import lowerbound as lb
from lowerbound.distributions import states
from lowerbound.roles import Posterior, Prior
from lowerbound.shapes import Shape
from tests.contracts import NO_CONTEXT, PosteriorContract, moved


class TestCategorical(PosteriorContract):
    @staticmethod
    def make(x_shape: Shape, z_shape: Shape) -> Posterior:
        if not z_shape or z_shape[-1] < 2:
            pytest.skip("there are no categories")
        return lb.posteriors.Categorical(x_shape, z_shape)

    def prior(self, z_shape: Shape) -> Prior:
        return lb.priors.Categorical(z_shape)

    @pytest.mark.parametrize("z_shape", [(2,), (5,), (3, 2)])
    @pytest.mark.parametrize("learned", [False, True])
    def test_is_normalised(self, z_shape: Shape, learned: bool) -> None:
        part = self.make((4,), z_shape).double()
        qz = (moved(part) if learned else part)(torch.rand(5, 4).double(), NO_CONTEXT)
        total: Tensor = qz.log_prob(states(qz)[:, None]).exp().sum(0)
        assert torch.allclose(total, torch.ones(5).double(), rtol=0, atol=1e-8)

    def test_the_code_of_an_example_is_the_most_probable_one(self) -> None:
        model = lb.VAE(
            self.prior((2, 3)),
            moved(self.make((4,), (2, 3))),
            lb.likelihoods.Bernoulli((2, 3), (4,)),
        )
        x = torch.rand(20, 4)
        q = model.posterior(x, NO_CONTEXT)
        best = states(q)[q.log_prob(states(q)[:, None]).argmax(0)]
        assert torch.equal(model.encode(x), best)
