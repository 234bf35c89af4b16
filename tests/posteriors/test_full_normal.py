import torch
from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.roles import Context
from tests.contracts import PosteriorContract
from tests.quadrature import real_line


class TestFullNormal(PosteriorContract):
    make = staticmethod(lb.posteriors.FullNormal)

    def quadrature(self, qz: Distribution) -> tuple[Tensor, Tensor]:
        return real_line(
            qz, 601
        )  # finer, since entries that are nearly proportional have a narrow ridge

    def test_the_covariance_is_that_of_its_draws(self) -> None:
        part = self.make((4,), (3,))
        with torch.no_grad():
            part.net.layers[-1].weight.mul_(5)
        qz = part(torch.rand(2, 4), Context())
        z = qz.sample((20000,))
        for b in range(2):
            # an entry of a covariance of n draws has a standard error near sqrt((s_ii s_jj +
            # s_ij^2) / n)
            truth = qz.flat.covariance_matrix[b]
            error = ((truth.diag()[:, None] * truth.diag() + truth**2) / 20000).sqrt()
            assert bool(((torch.cov(z[:, b].T) - truth).abs() < 5 * error).all())
        assert bool(
            (qz.flat.covariance_matrix[0] - torch.diag(qz.flat.covariance_matrix[0].diag()))
            .abs()
            .max()
            > 0.01
        )
