from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.roles import Prior
from lowerbound.shapes import Shape
from tests.contracts import PosteriorContract
from tests.quadrature import everywhere


class TestBernoulli(PosteriorContract):
    make = staticmethod(lb.posteriors.Bernoulli)

    def prior(self, z_shape: Shape) -> Prior:
        return lb.priors.Bernoulli(z_shape)

    def quadrature(self, qz: Distribution) -> tuple[Tensor, Tensor]:
        return everywhere(qz, [0.0, 1.0], [1.0, 1.0])

    def test_codes_are_reconstructed_from_codes(self) -> None:
        """The mean of q is no code, and p(x|z) is learned at codes alone."""
        model = lb.VAE(
            lb.priors.Bernoulli((5,)), self.make((4,), (5,)), lb.likelihoods.Bernoulli((5,), (4,))
        )
        x = torch.rand(20, 4)
        assert bool(((model.encode(x) == 0) | (model.encode(x) == 1)).all())
        assert torch.equal(model.encode(x), (model.eval()(x).latents[0].q.mean > 0.5).float())
