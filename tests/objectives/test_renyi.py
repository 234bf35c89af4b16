import math

import pytest
import torch

import lowerbound as lb
from lowerbound.objective import Step
from tests.contracts import ObjectiveContract
from tests.known_models import finite, log_evidence

STEP = Step(1.0, 100)
Renyi = lb.objectives.Renyi


class TestRenyi(ObjectiveContract):
    make = staticmethod(Renyi)

    def test_order_zero_is_the_importance_weighted_bound_and_order_one_the_elbo(self) -> None:
        _, draw = self.draw(samples=5)
        for alpha, same in (
            (0.0, lb.objectives.IWAE(samples=5)),
            (1.0, lb.objectives.ELBO(kl="sampled", samples=5)),
        ):
            ours, theirs = (o.terms(draw, STEP).loss for o in (Renyi(alpha), same))
            assert torch.allclose(ours, theirs, atol=1e-5)

    def test_it_falls_as_the_order_rises_and_passes_through_one_without_a_jump(self) -> None:
        model, _ = self.draw()
        draw = model.double()(torch.rand(5, 4).double(), samples=5)
        orders = [-5.0, 0.0, 0.5, 0.9985, 0.9995, 1 - 1e-9, 1.0, 1 + 1e-9, 1.0005, 1.0015, 2.0, 9.0]
        bounds = torch.stack([-Renyi(alpha).terms(draw, STEP).loss for alpha in orders])
        assert bool((bounds.diff(dim=0) <= 1e-12).all())
        # near 1 it falls by half the variance of log w for a unit of alpha
        slope = draw.log_w.var(0, correction=0) / 2
        for one, other in ((3, 4), (4, 6), (6, 8), (8, 9)):
            fall = (bounds[one] - bounds[other]) / (orders[other] - orders[one])
            assert torch.allclose(fall, slope, rtol=0.05)
        assert torch.allclose(bounds[5], bounds[6], atol=1e-7)

    def test_near_one_nothing_is_lost_in_single_precision(self) -> None:
        model, _ = self.draw()
        draw = model(torch.rand(5, 4), samples=5)
        assert torch.allclose(
            Renyi(1 - 1e-7).terms(draw, STEP).loss, Renyi(1.0).terms(draw, STEP).loss, atol=1e-4
        )

    def test_of_a_finite_latent_that_is_enumerated_it_is_the_divergence(self) -> None:
        """Log p(x) less D_alpha(q ‖ p(z|x)), the latter by its definition."""
        model = finite()
        x = torch.bernoulli(torch.full((6, 5), 0.5)).double()
        draw, log_p = model(x), log_evidence(model, x)
        log_posterior = draw.log_px + draw.log_pz - log_p
        for alpha in (-1.0, 0.5, 2.0):
            divergence = torch.logsumexp(alpha * draw.log_qz + (1 - alpha) * log_posterior, 0) / (
                alpha - 1
            )
            bound = -Renyi(alpha).terms(draw, STEP).loss
            assert torch.allclose(bound, log_p - divergence, rtol=1e-10)
            assert bool(
                ((bound <= log_p) == (alpha >= 0)).all()
            )  # below order 0 the limit is an upper bound

    def test_only_orders_from_zero_up_are_called_a_bound(self) -> None:
        assert [Renyi(alpha).is_bound for alpha in (-0.1, 0.0, 0.5, 1.0, 3.0)] == [
            False,
            True,
            True,
            True,
            True,
        ]

    def test_a_score_that_is_no_density_is_refused_with_what_would_fit(self) -> None:
        model = lb.VAE(
            prior=lb.priors.StandardNormal((2,)),
            posterior=lb.posteriors.DiagonalNormal((4,), (2,)),
            likelihood=lb.likelihoods.BinaryCrossEntropy((2,), (4,)),
        )
        with pytest.raises(ValueError, match="Renyi weighs draws .* no density; use ELBO"):
            self.make().check(model(torch.rand(5, 4)))

    @pytest.mark.parametrize(
        "settings", [{"alpha": math.nan}, {"alpha": math.inf}, {"alpha": -math.inf}, {"samples": 0}]
    )
    def test_refuses_what_makes_no_sense(self, settings: dict[str, float]) -> None:
        with pytest.raises(ValueError, match="is"):
            Renyi(**settings)


class TestNearOne(ObjectiveContract):
    def make(self) -> lb.objectives.Renyi:
        return Renyi(alpha=0.9999, samples=3)


class TestLargeOrder(ObjectiveContract):
    def make(self) -> lb.objectives.Renyi:
        return Renyi(alpha=3.0, samples=3)
