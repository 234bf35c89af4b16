import math
from itertools import combinations

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

import lowerbound as lb
from lowerbound.compatibility import conflict
from lowerbound.draw import Draw, Latent
from lowerbound.objective import Step
from lowerbound.objectives.beta_tc import decomposed
from tests.contracts import ObjectiveContract
from tests.known_models import TwoLatents

BetaTC = lb.objectives.BetaTC
N = 6


def latent_of(loc: Tensor, scale: Tensor, z: Tensor) -> Latent:
    """Normal posteriors with independent entries, (N, D), and codes (K, N, D)."""
    q = Independent(Normal(loc, scale), 1)
    p = Independent(Normal(torch.zeros_like(loc[0]), torch.ones_like(loc[0])), 1)
    return Latent(q, p, z, None)


def posteriors(size: int = 3) -> Latent:
    """Of N examples, with four codes for each."""
    loc, scale = torch.randn(N, size).double(), 0.2 + torch.rand(N, size).double()
    return latent_of(loc, scale, loc + scale * torch.randn(4, N, size).double())


def some(latent: Latent, rows: list[int], entries: slice = slice(None)) -> Latent:
    """The same for some of the examples, and some of the entries of z."""
    base = latent.q.base_dist
    return latent_of(base.loc[rows, entries], base.scale[rows, entries], latent.z[:, rows, entries])


def aggregate(latent: Latent, z: Tensor) -> Tensor:
    """log 1/N sum_n q(z|x_n) by definition, one code after the other: (..., D) -> (...)."""
    flat = z.reshape(-1, z.shape[-1])
    densities = [
        torch.stack([q.exp() for q in latent.q.log_prob(one.expand(N, -1))]).mean() for one in flat
    ]
    return torch.stack(densities).log().reshape(z.shape[:-1])


class TestBetaTC(ObjectiveContract):
    make = staticmethod(BetaTC)
    is_a_mean = False

    def test_with_all_examples_in_the_batch_the_decomposition_is_exact(self) -> None:
        latent = posteriors()
        information, correlation = decomposed(latent, N)
        joint = aggregate(latent, latent.z)
        every = list(range(N))
        product = sum(
            aggregate(part, part.z)
            for part in (some(latent, every, slice(d, d + 1)) for d in range(3))
        )
        assert torch.allclose(information, latent.log_q - joint, rtol=1e-10)
        assert torch.allclose(correlation, joint - product, rtol=1e-10, atol=1e-12)
        draw = Draw(
            (latent,),
            latent.q,
            torch.zeros(4, N).double(),
            torch.full((4, N), -math.log(4)).double(),
        )
        log = BetaTC(kl="sampled").terms(draw, Step(1.0, N)).log
        assert torch.allclose(
            log["dimension_wise_kl"], draw.average(product - latent.log_p), rtol=1e-8, atol=1e-10
        )

    @pytest.mark.parametrize("batch", [2, 3, 5])
    def test_over_all_batches_the_estimate_of_the_aggregate_is_unbiased(self, batch: int) -> None:
        """Every batch that holds the example z came from, enumerated: of q(z), and of each
        q(z_d).
        """
        whole = posteriors()
        for entries in (slice(None), slice(0, 1), slice(2, 3)):
            latent = some(whole, list(range(N)), entries)
            for example in range(N):
                others = combinations([n for n in range(N) if n != example], batch - 1)
                estimates = []
                place = example % batch  # of the example in its batch, where its weight is
                for chosen in others:
                    part = some(latent, [*chosen[:place], example, *chosen[place:]])
                    estimates.append((part.log_q - decomposed(part, N)[0])[:, place].exp())
                assert torch.stack(estimates).std() > 1e-3
                truth = aggregate(latent, latent.z[:, example]).exp()
                assert torch.allclose(torch.stack(estimates).mean(0), truth, rtol=1e-10)

    def test_it_is_the_average_of_the_papers_weights_over_which_of_the_others_is_the_last(
        self,
    ) -> None:
        latent = some(posteriors(), [0, 1, 2, 3])
        m = 3  # others in the batch
        log_q = latent.q.log_prob(latent.z[:, 2, None])  # of one example's codes at every posterior
        papers = []
        for last in (0, 1, 3):
            weights = torch.tensor([1 / m, 1 / m, 1 / N, 1 / m]).double()
            weights[last] = (N - m) / (N * m)
            papers.append((log_q.exp() * weights).sum(-1))
        ours = (latent.log_q - decomposed(latent, N)[0])[:, 2].exp()
        assert torch.allclose(torch.stack(papers).mean(0), ours, rtol=1e-10)

    def test_of_codes_that_are_jointly_normal_it_is_the_known_total_correlation(self) -> None:
        """q(z|x) = N(x, s^2 I) of normal x: q(z) is normal, with a correlation r, and TC = -1/2
        log(1 - r^2).
        """
        cov = torch.tensor([[1.0, 0.8], [0.8, 1.0]]).double()
        x = MultivariateNormal(torch.zeros(2).double(), cov).sample((1500,))
        scale = torch.full_like(x, 0.5)
        information, correlation = decomposed(
            latent_of(x, scale, x + scale * torch.randn(1, 1500, 2).double()), 1500
        )
        total = cov + 0.25 * torch.eye(2)
        r = 0.8 / 1.25
        assert correlation.mean().item() == pytest.approx(-0.5 * math.log(1 - r**2), abs=0.03)
        assert information.mean().item() == pytest.approx(
            0.5 * (total / 0.25).logdet().item(), abs=0.06
        )

    def test_each_part_has_its_weight(self) -> None:
        _, draw = self.draw(samples=2)
        step = Step(1.0, 100)
        log = BetaTC().terms(draw, step).log
        parts = [
            log[name] for name in ("mutual_information", "total_correlation", "dimension_wise_kl")
        ]
        for weights in ((1.0, 1.0, 1.0), (0.0, 6.0, 2.0), (3.0, 0.5, 0.0)):
            loss = BetaTC(*weights).terms(draw, step).loss
            expected = draw.distortion + sum(
                w * part for w, part in zip(weights, parts, strict=True)
            )
            assert torch.allclose(loss, expected, rtol=1e-5)
        assert torch.allclose(
            BetaTC(1.0, 1.0, 1.0).terms(draw, step).loss, draw.distortion + draw.rate, rtol=1e-6
        )

    def test_a_batch_of_one_is_its_own_aggregate(self) -> None:
        model, _ = self.draw()
        log = BetaTC().terms(model(torch.rand(1, 4)), Step(1.0, 100)).log
        assert log["mutual_information"].item() == log["total_correlation"].item() == 0

    def test_a_batch_may_hold_more_than_there_are_training_examples(self) -> None:
        model, _ = self.draw()
        with torch.no_grad():
            for examples in (1, 2, 10):
                log = BetaTC().terms(model(torch.rand(50, 4)), Step(1.0, examples)).log
                assert all(bool(value.isfinite().all()) for value in log.values())

    def test_of_a_prior_whose_entries_depend_on_each_other_the_rest_is_called_no_kl(self) -> None:
        model, _ = self.draw()
        other = lb.VAE(lb.priors.Mixture((2,), components=3), model.posterior, model.likelihood)
        log = BetaTC().terms(other(torch.rand(5, 4)), Step(1.0, 100)).log
        assert "dimension_wise_kl" not in log
        assert "total_correlation" in log

    def test_it_is_called_a_bound_only_where_the_total_correlation_has_no_weight_of_its_own(
        self,
    ) -> None:
        weights = {
            (1, 1, 1): True,
            (2, 1, 1): True,
            (2, 2, 2): True,
            (1, 6, 1): False,
            (0, 1, 1): False,
            (1, 1, 0): False,
        }
        assert {key: BetaTC(*key).is_bound for key in weights} == weights

    def test_a_posterior_whose_entries_depend_on_each_other_is_refused(self) -> None:
        model, _ = self.draw()
        full = lb.posteriors.FullNormal((4,), (2,))
        assert conflict(BetaTC(), full) == (
            "BetaTC takes q(z|x) apart into its entries, and FullNormal has entries of z that "
            "depend on each other; use FactorVAE, or a posterior with independent entries "
            "(DiagonalNormal)"
        )
        with pytest.raises(ValueError, match="BetaTC takes .* apart .*; use FactorVAE"):
            BetaTC().check(lb.VAE(model.prior, full, model.likelihood)(torch.rand(5, 4)))
        with pytest.raises(ValueError, match="BetaTC is about one latent, and this model has 2"):
            BetaTC().check(TwoLatents()(torch.rand(5, 4).double()))

    @pytest.mark.parametrize(
        "settings",
        [{"alpha": -1.0}, {"beta": math.nan}, {"gamma": math.inf}, {"samples": 0}, {"kl": "exact"}],
    )
    def test_refuses_what_makes_no_sense(self, settings: dict[str, object]) -> None:
        with pytest.raises(ValueError, match=f"{next(iter(settings))} is"):
            BetaTC(**settings)


class TestSampledWeights(ObjectiveContract):
    is_a_mean = False

    def make(self) -> lb.objectives.BetaTC:
        return BetaTC(alpha=0.0, beta=3.0, gamma=2.0, kl="sampled", samples=3)


def test_the_quantities_are_in_the_metrics_and_validation_is_on_their_scale() -> None:
    """Training in batches of 64 and validation in one of 400: examples of one kind, at next to no
    learning rate.
    """
    torch.manual_seed(0)
    data = lb.data.from_arrays(torch.rand(4000, 4).numpy(), splits="train_valid_test")
    model = lb.VAE(
        prior=lb.priors.StandardNormal((2,)),
        posterior=lb.posteriors.DiagonalNormal((4,), (2,)),
        likelihood=lb.likelihoods.Normal((2,), (4,)),
    )
    with torch.no_grad():
        # sharp posteriors, so that there is information
        model.posterior.net.layers[-1].bias[2:] -= 6
    history = lb.fit(
        model, BetaTC(samples=3), data, epochs=1, batch_size=64, learning_rate=1e-12, progress=False
    )
    train, valid = history.epochs[0]["train"], history.epochs[0]["valid"]
    for values in (train, valid):
        parts = (
            values["mutual_information"] + values["total_correlation"] + values["dimension_wise_kl"]
        )
        assert parts == pytest.approx(values["rate"], rel=1e-5)
        loss = values["distortion"] + values["rate"] + 5 * values["total_correlation"]
        assert values["loss"] == pytest.approx(loss, rel=1e-5)
    assert valid["total_correlation"] == pytest.approx(train["total_correlation"], abs=0.05)
    assert (
        valid["mutual_information"] < train["mutual_information"]
    )  # its bias falls with the batch
