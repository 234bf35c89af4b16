import pytest
import torch

import lowerbound as lb
from lowerbound.draw import Draw
from lowerbound.objective import Step
from tests.contracts import ObjectiveContract

STEP = Step(1.0, 100)


class TestDReG(ObjectiveContract):
    make = staticmethod(lb.objectives.DReG)

    def test_the_value_is_that_of_the_importance_weighted_bound(self) -> None:
        _, draw = self.draw(samples=5)
        ours, theirs = (
            lb.objectives.DReG().terms(draw, STEP),
            lb.objectives.IWAE().terms(draw, STEP),
        )
        assert torch.equal(ours.loss, theirs.loss)
        assert all(torch.equal(ours.log[name], theirs.log[name]) for name in theirs.log)

    @pytest.mark.parametrize("z_shape", [(), (2,), (1, 2, 3)])
    def test_the_gradient_at_each_draw_is_weighed_by_the_square_of_its_weight(
        self, z_shape: tuple[int, ...]
    ) -> None:
        """What the posterior's parameters get, by the formula and by the hook, for latents of any
        shape.
        """
        model = lb.VAE(
            prior=lb.priors.StandardNormal(z_shape),
            posterior=lb.posteriors.DiagonalNormal((4,), z_shape),
            likelihood=lb.likelihoods.Normal(z_shape, (4,)),
        ).double()
        x, parameters = torch.rand(5, 4).double(), list(model.posterior.parameters())
        torch.manual_seed(1)
        draw = model(x, samples=3, path_gradient=True)
        weights = draw.log_w.detach().softmax(0)
        expected = torch.autograd.grad(-(weights**2 * draw.log_w).sum(0).mean(), parameters)
        torch.manual_seed(1)
        draw = model(x, samples=3, path_gradient=True)
        gradients = torch.autograd.grad(
            lb.objectives.DReG(samples=3).terms(draw, STEP).total, parameters
        )
        for one, other in zip(gradients, expected, strict=True):
            assert torch.allclose(one, other, rtol=1e-9, atol=1e-14)

    def test_in_half_precision_the_gradient_is_the_same_but_for_rounding(self) -> None:
        model, _ = self.draw()
        x, gradients = torch.rand(50, 4), []
        for enabled in (False, True):
            model.zero_grad()
            torch.manual_seed(1)
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                draw = model(x, samples=4, path_gradient=True)
                total = lb.objectives.DReG(samples=4).terms(draw, STEP).total
            total.backward()
            assert draw.latents[0].z.dtype == draw.log_w.dtype == total.dtype == torch.float32
            gradients.append(torch.cat([p.grad.flatten() for p in model.posterior.parameters()]))
        assert (gradients[1] - gradients[0]).norm() < 0.05 * gradients[
            0
        ].norm()  # bfloat16 holds 8 bits: 0.4 % an operation

    def test_nothing_is_marked_where_no_gradient_is_asked_for(self) -> None:
        model, _ = self.draw()
        with torch.no_grad():
            draw = model(torch.rand(5, 4), samples=5, path_gradient=True)
            assert lb.objectives.DReG().terms(draw, STEP).loss.isfinite().all()

    def test_what_it_cannot_weigh_is_refused(self) -> None:
        objective = self.make()
        _, draw = self.draw(samples=5)
        objective.check(draw)
        with pytest.raises(ValueError, match="DReG weighs draws .* no density; use ELBO"):
            objective.check(Draw(draw.latents, draw.px, draw.log_px, draw.log_m, is_density=False))
        with pytest.raises(ValueError, match="adds to the loss .cost.; use IWAE"):
            objective.check(
                Draw(draw.latents, draw.px, draw.log_px, draw.log_m, {"cost": torch.zeros(5)})
            )

    def test_refuses_no_samples(self) -> None:
        with pytest.raises(ValueError, match="samples is 0"):
            lb.objectives.DReG(samples=0)
