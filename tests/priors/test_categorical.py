from __future__ import annotations

import pytest
import torch

import lowerbound as lb
from lowerbound.distributions import states
from lowerbound.roles import Context, Posterior, Prior
from lowerbound.shapes import Shape
from tests.contracts import PriorContract, moved


class TestCategorical(PriorContract):
    @staticmethod
    def make(z_shape: Shape) -> Prior:
        if not z_shape or z_shape[-1] < 2:
            pytest.skip("there are no categories")
        return lb.priors.Categorical(z_shape, learned=True)

    def posterior(self, z_shape: Shape) -> Posterior:
        return lb.posteriors.Categorical((4,), z_shape, draws="enumerated")

    @pytest.mark.parametrize("z_shape", [(2,), (5,), (3, 2)])
    @pytest.mark.parametrize("learned", [False, True])
    def test_is_normalised(self, z_shape: Shape, learned: bool) -> None:
        part = self.make(z_shape).double()
        pz = self.pz(moved(part) if learned else part)
        assert pz.log_prob(states(pz)).exp().sum().item() == pytest.approx(1, abs=1e-8)


def test_unless_it_is_learned_every_code_is_as_probable() -> None:
    prior = lb.priors.Categorical((2, 3))
    assert not list(prior.parameters())
    pz = prior(Context())
    assert torch.allclose(pz.log_prob(states(pz)).exp(), torch.tensor(1 / 9))


@pytest.mark.parametrize("z_shape", [(), (1,), (4, 1)])
@pytest.mark.parametrize(
    "make", [lb.priors.Categorical, lambda z: lb.posteriors.Categorical((4,), z)], ids=["p", "q"]
)
def test_a_latent_without_categories_is_refused(make: object, z_shape: Shape) -> None:
    with pytest.raises(
        ValueError,
        match=r"codes need \(n, C\), n variables of C categories, or \(C,\), with C at least 2",
    ):
        make(z_shape)
