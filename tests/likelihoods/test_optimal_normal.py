import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.roles import Context
from tests.contracts import LikelihoodContract
from tests.quadrature import real_line


class TestOptimalNormal(LikelihoodContract):
    def make(self, *shapes: tuple[int, ...]) -> lb.likelihoods.OptimalNormal:
        return lb.likelihoods.OptimalNormal(*shapes)

    scale_of_the_batch = True

    def quadrature(self, px: Distribution) -> tuple[Tensor, Tensor]:
        return real_line(px)

    def test_in_training_the_scale_is_the_best_for_the_batch(self) -> None:
        part = self.make((3,), (50,))
        z, x = torch.randn(2, 20, 3), 3 * torch.randn(20, 50)
        px = part(z, Context())
        best = part.log_prob(px, x, None).mean()
        part.eval()
        for factor in (0.9, 1.0, 1.1):
            other = lb.likelihoods.Normal(
                (3,), (50,), scale=factor * (x - px.mean).pow(2).mean().sqrt().item()
            )
            other.net = part.net
            score = other.log_prob(other(z, Context()), x, None).mean()
            assert score <= best + 1e-3
            assert (score < best - 0.05) == (factor != 1.0)

    def test_outside_training_the_scale_is_the_running_mean_and_blind_to_x(self) -> None:
        part = self.make((3,), (50,))
        z = torch.randn(1, 20, 3)
        variances = []
        for _ in range(5):
            x = torch.randn(20, 50)
            px = part(z, Context())
            part.log_prob(px, x, None)
            variances.append((x - px.mean).pow(2).mean().item())
        part.eval()
        assert part(z, Context()).variance[0, 0, 0].item() == pytest.approx(
            sum(variances) / 5, rel=1e-5
        )
        before = part.variance.clone()
        part.log_prob(part(z, Context()), 9 * torch.randn(20, 50), None)
        assert torch.equal(part.variance, before)

    @pytest.mark.parametrize("momentum", [0.0, -0.1, 1.5])
    def test_refuses_a_momentum_that_is_none(self, momentum: float) -> None:
        with pytest.raises(ValueError, match="momentum"):
            lb.likelihoods.OptimalNormal((3,), (4,), momentum=momentum)
