import torch

import lowerbound as lb
from lowerbound.roles import Context
from tests.contracts import PosteriorContract


class TestDiagonalNormal(PosteriorContract):
    make = staticmethod(lb.posteriors.DiagonalNormal)

    def test_the_network_gives_mean_and_log_variance(self) -> None:
        part = self.make(
            (4,),
            (3,),
            network=lambda i, o: torch.nn.Sequential(
                torch.nn.Linear(4, 6), torch.nn.Unflatten(1, o)
            ),
        )
        x = torch.rand(5, 4)
        mean, log_variance = part.net(x).unbind(1)
        qz = part(x, Context())
        assert torch.equal(qz.mean, mean)
        assert torch.allclose(qz.variance.log(), log_variance, atol=1e-5)
