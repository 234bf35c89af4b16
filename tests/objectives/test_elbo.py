import math

import pytest
import torch
from torch.distributions import Laplace

import lowerbound as lb
from lowerbound.distributions.kl import closed_form_kl
from lowerbound.draw import Draw, Latent
from lowerbound.objective import Step
from tests.contracts import ObjectiveContract, within

STEP = Step(1.0, 100)


class TestELBO(ObjectiveContract):
    make = staticmethod(lb.objectives.ELBO)

    def test_beta_weighs_the_rate(self) -> None:
        _, draw = self.draw()
        loss = lb.objectives.ELBO(beta=4.0).terms(draw, STEP).loss
        assert torch.allclose(loss, draw.distortion + 4 * draw.rate)

    def test_sampled_and_closed_form_rate_agree_in_mean(self) -> None:
        _, draw = self.draw(samples=4000)
        difference = draw.latents[0].log_q - draw.latents[0].log_p - draw.rate
        for b in range(5):
            assert within(difference[:, b].detach(), 0.0)
        sampled = lb.objectives.ELBO(kl="sampled").terms(draw, STEP).loss
        assert torch.allclose(sampled, -draw.average(draw.log_w), atol=1e-4)

    def test_closed_form_is_refused_where_there_is_none(self) -> None:
        _, draw = self.draw()
        latent = draw.latents[0]
        without = Latent(latent.q, latent.p, latent.z, None)
        changed = Draw((without,), draw.px, draw.log_px, draw.log_m)
        lb.objectives.ELBO(kl="auto").check(changed)
        with pytest.raises(ValueError, match="has no closed form"):
            lb.objectives.ELBO(kl="closed_form").check(changed)
        assert lb.objectives.ELBO().rate_name(changed) == "sampled"
        assert lb.objectives.ELBO().rate_name(draw) == "closed form"

    def test_the_warm_up_rises_in_a_straight_line_and_ends_before_the_run(self) -> None:
        _, draw = self.draw()
        for warmup in (0.2, 1.0):
            objective = lb.objectives.ELBO(beta=3.0, warmup=warmup)
            for progress in (0.0, 0.1, 0.2, 0.7, 1.0):
                weight = 3 * min(1.0, progress / warmup)
                loss = objective.terms(draw, Step(progress, 100)).loss
                assert torch.allclose(loss, draw.distortion + weight * draw.rate)

    def test_free_bits_floor_the_mean_rate_of_each_dimension(self) -> None:
        _, draw = self.draw()
        per_dimension = draw.rate_per_dimension.mean(0)
        floor = per_dimension.mean().item()  # between the two dimensions' rates
        total = lb.objectives.ELBO(free_bits=floor).terms(draw, STEP).total
        assert torch.allclose(total, draw.distortion.mean() + per_dimension.clamp(min=floor).sum())

    def test_no_gradient_of_the_rate_is_left_below_the_floor(self) -> None:
        model, draw = self.draw()
        parameters = list(model.posterior.parameters())
        total = lb.objectives.ELBO(free_bits=100.0).terms(draw, STEP).total
        free = torch.autograd.grad(total, parameters, retain_graph=True)
        distortion = torch.autograd.grad(draw.distortion.mean(), parameters)
        for ours, expected in zip(free, distortion, strict=True):
            assert torch.allclose(ours, expected, atol=1e-6)

    def test_free_bits_are_refused_where_entries_are_not_independent(self) -> None:
        model = lb.VAE(
            prior=lb.priors.StandardNormal((2,)),
            posterior=lb.posteriors.FullNormal((4,), (2,)),
            likelihood=lb.likelihoods.Normal((2,), (4,)),
        )
        with pytest.raises(ValueError, match="independent entries.*use DiagonalNormal"):
            lb.objectives.ELBO(free_bits=0.5).check(model(torch.rand(5, 4)))

    @pytest.mark.parametrize(
        "settings",
        [
            {"warmup": 1.5},
            {"warmup": -0.1},
            {"free_bits": -1.0},
            {"beta": -1.0},
            {"beta": math.nan},
            {"samples": 0},
            {"kl": "exact"},
        ],
    )
    def test_refuses_what_makes_no_sense(self, settings: dict[str, object]) -> None:
        with pytest.raises(ValueError, match="is"):
            lb.objectives.ELBO(**settings)

    def test_what_is_no_density_is_not_called_an_elbo(self) -> None:
        model = lb.VAE(
            prior=lb.priors.StandardNormal((2,)),
            posterior=lb.posteriors.DiagonalNormal((4,), (2,)),
            likelihood=lb.likelihoods.BinaryCrossEntropy((2,), (4,)),
        )
        log = self.make().terms(model(torch.rand(5, 4)), STEP).log
        assert set(log) == {"rate", "cross_entropy"}


class TestEverythingAtOnce(ObjectiveContract):
    """Weighted, warming up and with free bits that hold for some dimensions and not for others."""

    def make(self) -> lb.objectives.ELBO:
        return lb.objectives.ELBO(beta=2.0, warmup=0.8, free_bits=0.01, samples=3)


class TestPathGradient(ObjectiveContract):
    def make(self) -> lb.objectives.ELBO:
        return lb.objectives.ELBO(path_gradient=True, samples=3)

    def test_the_rate_is_sampled_where_kl_is_left_at_auto(self) -> None:
        objective = self.make()
        _, draw = self.draw(3, path_gradient=True)
        assert objective.rate_name(draw) == "sampled"
        assert torch.allclose(objective.terms(draw, STEP).loss, -draw.average(draw.log_w))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [({"kl": "closed_form"}, "set kl to 'sampled'"), ({"free_bits": 0.1}, "leave one of them")],
    )
    def test_what_needs_the_closed_form_is_refused(
        self, settings: dict[str, object], message: str
    ) -> None:
        with pytest.raises(ValueError, match=f"path_gradient needs the sampled KL.*{message}"):
            lb.objectives.ELBO(path_gradient=True, **settings)


class TestSampled(ObjectiveContract):
    def make(self) -> lb.objectives.ELBO:
        return lb.objectives.ELBO(kl="sampled", samples=3)


def test_a_pair_without_a_rule_has_no_closed_form() -> None:
    assert closed_form_kl(Laplace(0.0, 1.0), torch.distributions.Cauchy(0.0, 1.0)) is None
    assert (
        closed_form_kl(Laplace(0.0, 1.0), torch.distributions.Cauchy(0.0, 1.0)) is None
    )  # remembered
