import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Cauchy, Independent, Normal

import lowerbound as lb
from lowerbound.compatibility import conflict
from lowerbound.draw import Draw, Latent
from lowerbound.objective import Step
from lowerbound.objectives.mmd import width
from tests.contracts import ObjectiveContract, within
from tests.known_models import TwoLatents

MMD = lb.objectives.MMD
STEP = Step(1.0, 100)
D, SHIFT, SPREAD = 2, 0.7, 0.6  # q(z) = N(SHIFT, SPREAD^2) in each of D entries, p(z) = N(0, 1)
UNIT = torch.tensor(2.0 * D).double()


def similarity(h: float, variance: float, shift: float) -> float:
    """E exp(-|e|^2 / h) for e ~ N(shift, variance) in each of D entries: a Gaussian integral."""
    return float((1 + 2 * variance / h) ** (-D / 2) * math.exp(-D * shift**2 / (h + 2 * variance)))


def discrepancy(similarity_of: Callable[[float, float], float]) -> float:
    """MMD^2 from the mean similarity of two independent draws, by the variance and the mean of
    their difference.
    """
    return (
        similarity_of(2 * SPREAD**2, 0)
        + similarity_of(2, 0)
        - 2 * similarity_of(1 + SPREAD**2, SHIFT)
    )


def truth(objective: lb.objectives.MMD) -> float:
    """In closed form; h / (h + d^2) is the integral of exp(-t (1 + d^2 / h)) over t > 0, taken by
    the trapezoidal rule.
    """
    total = 0.0
    for h in (scale * UNIT.item() for scale in objective.scales):
        if objective.kernel == "gaussian":
            total += discrepancy(lambda v, m, h=h: similarity(h, v, m))
            continue
        t = torch.linspace(1e-9, 40, 4001).double()
        values = [
            math.exp(-s) * discrepancy(lambda v, m, h=h, s=s: similarity(h / s, v, m))
            for s in t.tolist()
        ]
        total += float(torch.trapezoid(torch.tensor(values).double(), t))
    return total


def estimates(
    objective: lb.objectives.MMD, draw: Callable[[], tuple[Tensor, Tensor]], paired: bool = False
) -> Tensor:
    """Of many batches."""
    values = []
    for _ in range(600):
        z, y = draw()
        values.append(objective.squared_mmd(z, torch.tensor(1 / len(z)).double(), y, UNIT, paired))
    return torch.stack(values)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, D).double()


KERNELS = [MMD(), MMD(kernel="gaussian", scales=(0.5, 2.0))]


class TestMMD(ObjectiveContract):
    make = staticmethod(MMD)
    is_a_mean = False

    @pytest.mark.parametrize("objective", KERNELS, ids=lambda o: o.kernel)
    def test_between_normals_it_is_unbiased_for_the_closed_form(
        self, objective: lb.objectives.MMD
    ) -> None:
        values = estimates(objective, lambda: (SHIFT + SPREAD * normal(1, 12), normal(12)))
        assert within(values, truth(objective))
        assert (
            truth(objective) > 10 * values.std() / len(values) ** 0.5
        )  # it could be told from zero

    @pytest.mark.parametrize("objective", KERNELS, ids=lambda o: o.kernel)
    def test_several_draws_of_an_example_count_as_draws_of_one_example(
        self, objective: lb.objectives.MMD
    ) -> None:
        """Of one x they are alike, so that a pair of them says nothing about two independent
        codes.
        """

        def draw() -> tuple[Tensor, Tensor]:
            x = SHIFT + 0.9 * SPREAD * normal(1, 6)
            return x + (1 - 0.9**2) ** 0.5 * SPREAD * normal(4, 6), normal(6)

        assert within(estimates(objective, draw), truth(objective))

    @pytest.mark.parametrize("objective", KERNELS, ids=lambda o: o.kernel)
    def test_where_the_codes_are_those_of_the_prior_its_mean_is_zero(
        self, objective: lb.objectives.MMD
    ) -> None:
        values = estimates(objective, lambda: (normal(1, 12), normal(12)))
        assert within(values, 0.0)
        assert bool((values < 0).any())

    def test_a_prior_that_depends_on_the_example_is_compared_with_other_examples_only(self) -> None:
        def draw() -> tuple[Tensor, Tensor]:
            label = normal(6)
            return 0.9 * label[None] + 0.19**0.5 * normal(1, 6), 0.9 * label + 0.19**0.5 * normal(6)

        assert within(estimates(MMD(), draw, paired=True), 0.0)
        assert not within(estimates(MMD(), draw, paired=False), 0.0)

    def test_a_latent_that_is_enumerated_counts_by_its_probabilities(self) -> None:
        """Weighted states are what infinitely many draws would be."""
        objective, states, y = MMD(), torch.tensor([-1.0, 0.5, 2.0]).double(), normal(3)
        probs = torch.tensor(
            [[0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0.3, 0.3, 0.4]]
        ).double()  # (B, states)
        z = states[:, None, None].expand(3, 3, D)
        exact = objective.squared_mmd(z, probs.T, y, UNIT)
        index = torch.multinomial(probs, 1000, replacement=True)  # (B, draws)
        drawn = torch.stack(
            [
                objective.squared_mmd(
                    states[i].reshape(1, 3, 1).expand(1, 3, D), torch.ones(()).double(), y, UNIT
                )
                for i in index.T
            ]
        )
        assert within(drawn, exact)

    def test_the_width_is_the_mean_squared_distance_of_two_draws_of_the_prior(self) -> None:
        p = Independent(Normal(torch.tensor([5.0, -1.0]), torch.tensor([2.0, 0.5])), 1)
        squares = (p.sample((20_000,)) - p.sample((20_000,))).square().sum(1)
        assert within(squares, width(p))

    def test_the_weights_are_those_of_both_papers(self) -> None:
        _, draw = self.draw()
        torch.manual_seed(1)
        wae = MMD(beta=0.0, weight=10.0).terms(draw, STEP)
        torch.manual_seed(1)
        info = MMD(beta=0.5, weight=30.0).terms(draw, STEP)
        assert torch.allclose(wae.loss, draw.distortion)
        assert torch.allclose(info.loss, draw.distortion + 0.5 * draw.rate)
        assert torch.allclose(wae.batch_loss, 10 * wae.log["squared_mmd"].mean())
        assert torch.allclose(info.batch_loss, 3 * wae.batch_loss)

    def test_a_learned_prior_is_moved_by_its_draws(self) -> None:
        model, _ = self.draw()
        prior = lb.priors.Normal((2,))
        draw = lb.VAE(prior, model.posterior, model.likelihood)(torch.rand(50, 4))
        MMD().terms(draw, STEP).batch_loss.backward()
        assert all(p.grad is not None and bool((p.grad != 0).any()) for p in prior.parameters())

    def test_at_beta_zero_a_prior_that_draws_without_a_gradient_is_refused(self) -> None:
        prior = lb.priors.Mixture((2,), components=3)
        assert conflict(MMD(beta=1.0), prior) is None
        assert "use beta above 0, or a prior with reparameterised draws" in (
            conflict(MMD(), prior) or ""
        )
        model, _ = self.draw()
        draw = lb.VAE(prior, model.posterior, model.likelihood)(torch.rand(5, 4))
        MMD(beta=1.0).check(draw)
        with pytest.raises(
            ValueError, match="MMD with beta = 0 .* have no gradient; use beta above 0"
        ):
            MMD().check(draw)

    def test_a_model_that_does_not_fit_is_refused(self) -> None:
        with pytest.raises(ValueError, match="MMD is about one latent, and this model has 2"):
            MMD().check(TwoLatents()(torch.rand(5, 4).double()))
        _, draw = self.draw()
        latent = draw.latents[0]
        p = Independent(Cauchy(torch.zeros(2), torch.ones(2)), 1)
        changed = Draw((Latent(latent.q, p, latent.z, None),), draw.px, draw.log_px, draw.log_m)
        with pytest.raises(ValueError, match="that of Independent is not finite"):
            MMD().check(changed)

    def test_a_batch_of_one_has_no_pair_and_adds_nothing(self) -> None:
        model, _ = self.draw()
        terms = MMD().terms(model(torch.rand(1, 4)), STEP)
        assert terms.batch_loss == 0

    def test_it_is_a_bound_where_the_rate_counts_in_full(self) -> None:
        assert [MMD(beta=beta).is_bound for beta in (0.0, 0.5, 1.0, 2.0)] == [
            False,
            False,
            True,
            True,
        ]

    @pytest.mark.parametrize(
        "settings",
        [
            {"beta": -1.0},
            {"weight": math.inf},
            {"kernel": "linear"},
            {"scales": ()},
            {"scales": (1.0, 0.0)},
            {"samples": 0},
        ],
    )
    def test_refuses_what_makes_no_sense(self, settings: dict[str, object]) -> None:
        with pytest.raises(ValueError, match=f"{next(iter(settings))} is"):
            MMD(**settings)


class TestInfoVAE(ObjectiveContract):
    is_a_mean = False

    def make(self) -> lb.objectives.MMD:
        return MMD(beta=1.0, weight=50.0, kernel="gaussian", scales=(1.0,), samples=3)


def test_minimised_it_moves_the_codes_to_the_prior() -> None:
    torch.manual_seed(0)
    data = lb.data.from_arrays(torch.randn(400, 2).numpy(), splits="train_valid_test")
    model = lb.VAE(
        prior=lb.priors.StandardNormal((2,)),
        posterior=lb.posteriors.DiagonalNormal((2,), (2,)),
        likelihood=lb.likelihoods.Normal((2,), (2,), scale=1.0),
    )
    with torch.no_grad():
        model.posterior.net.layers[-1].bias[:2] += 3  # codes three standard deviations away
    history = lb.fit(
        model,
        MMD(weight=100.0),
        data,
        epochs=15,
        batch_size=100,
        learning_rate=5e-3,
        progress=False,
    )
    values = history.series("squared_mmd", "valid")
    assert values[-1] < 0.1 * values[0]
