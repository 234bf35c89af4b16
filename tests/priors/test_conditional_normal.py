import pytest
import torch
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.draw import RateEstimator
from lowerbound.objective import Step
from lowerbound.roles import Context, Prior
from tests.contracts import PriorContract, check_gradients, moved


class TestConditionalNormal(PriorContract):
    """At one y, without a batch, as any prior."""

    def make(self, z_shape: tuple[int, ...]) -> Prior:
        return lb.priors.ConditionalNormal(z_shape, condition=3)

    def pz(self, part: Prior) -> Distribution:
        return part(Context(y=torch.tensor(1)))

    @pytest.mark.parametrize("kl", ["auto", "sampled"])
    def test_gradients_of_the_loss_are_those_of_finite_differences(self, kl: RateEstimator) -> None:
        posterior, likelihood = (
            lb.posteriors.DiagonalNormal((4,), (3,)),
            lb.likelihoods.Normal((3,), (4,)),
        )
        model = lb.VAE(moved(self.make((3,))), posterior, likelihood).double()
        x, context = torch.rand(5, 4).double(), Context(y=torch.tensor([0, 1, 2, 0, 1]))

        def loss() -> torch.Tensor:
            torch.manual_seed(7)
            return lb.objectives.ELBO(kl=kl, samples=2)(model(x, context, 2), Step(0.5, 100)).total

        check_gradients(loss, model)

    def test_each_class_has_a_mean_and_a_scale_of_its_own(self) -> None:
        part = self.make((2,))
        pz = part(Context(y=torch.tensor([0, 1, 1])))
        assert pz.batch_shape == (3,)
        assert torch.equal(pz.mean[1], pz.mean[2])
        assert not torch.equal(pz.mean[0], pz.mean[1])
        assert not torch.equal(pz.stddev[0], pz.stddev[1])
