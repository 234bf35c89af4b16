import math

import pytest
import torch

import lowerbound as lb
from lowerbound.draw import Draw, Latent
from lowerbound.objective import Step
from tests.contracts import ObjectiveContract
from tests.known_models import finite, log_evidence

STEP = Step(1.0, 100)


class TestIWAE(ObjectiveContract):
    make = staticmethod(lb.objectives.IWAE)

    def test_the_weights_are_those_of_the_definition(self) -> None:
        """Two draws with weights 1 and 3: the bound is log 2, and the better draw gets three
        quarters of the gradient.
        """
        _, draw = self.draw(samples=2)
        latent = draw.latents[0]
        log_px = torch.tensor([[1.0], [3.0]]).log().expand(2, 5).clone().requires_grad_()
        known = Draw(
            (Latent(latent.q, latent.q, latent.z.detach(), None),),
            draw.px,
            log_px,
            torch.full((2, 5), -math.log(2)),
        )
        loss = lb.objectives.IWAE(samples=2).terms(known, STEP).loss
        assert torch.allclose(loss, -torch.tensor(2.0).log().expand(5))
        (gradient,) = torch.autograd.grad(loss.sum(), log_px)
        assert torch.allclose(gradient, torch.tensor([[-0.25], [-0.75]]).expand(2, 5))

    def test_one_draw_is_the_elbo_with_the_sampled_rate(self) -> None:
        _, draw = self.draw()
        ours, elbo = lb.objectives.IWAE(samples=1), lb.objectives.ELBO(kl="sampled")
        assert torch.allclose(ours.terms(draw, STEP).loss, elbo.terms(draw, STEP).loss, atol=1e-5)

    def test_of_a_finite_latent_that_is_enumerated_it_is_the_evidence(self) -> None:
        model = finite()
        x = torch.bernoulli(torch.full((6, 5), 0.5)).double()
        terms = lb.objectives.IWAE().terms(model(x), STEP)
        assert torch.allclose(-terms.loss, log_evidence(model, x), rtol=1e-10)
        assert torch.equal(terms.log["iwae"], -terms.loss)
        assert bool((terms.log["elbo"] <= terms.log["iwae"]).all())

    def test_what_parts_ask_for_is_added_to_the_loss_and_not_to_the_bound(self) -> None:
        _, draw = self.draw(samples=5)
        asked = Draw(draw.latents, draw.px, draw.log_px, draw.log_m, {"cost": torch.arange(5.0)})
        one, other = (lb.objectives.IWAE()(d, STEP) for d in (draw, asked))
        assert torch.allclose(other.loss, one.loss + torch.arange(5.0))
        assert torch.equal(other.log["iwae"], one.log["iwae"])

    def test_a_score_that_is_no_density_is_refused_with_what_would_fit(self) -> None:
        model = lb.VAE(
            prior=lb.priors.StandardNormal((2,)),
            posterior=lb.posteriors.DiagonalNormal((4,), (2,)),
            likelihood=lb.likelihoods.BinaryCrossEntropy((2,), (4,)),
        )
        with pytest.raises(ValueError, match="IWAE weighs draws .* no density; use ELBO"):
            self.make().check(model(torch.rand(5, 4)))

    def test_refuses_no_samples(self) -> None:
        with pytest.raises(ValueError, match="samples is 0"):
            lb.objectives.IWAE(samples=0)
