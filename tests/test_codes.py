"""Discrete codes: what is exact is compared with sums over all codes, and what is not with its
limit.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent

import lowerbound as lb
from lowerbound.codes import CodeSampling
from lowerbound.distributions import OneHot, relaxed, relaxed_logits, states
from lowerbound.objective import Objective, Step, check_parts
from lowerbound.objectives import ELBO, IWAE, DReG, Renyi, ReweightedWakeSleep
from lowerbound.roles import Context
from lowerbound.training.passes import dry_run
from tests.known_models import drawing, finite, log_evidence

STEP = Step(0.5, 100)


def bits(n: int) -> Tensor:
    return torch.bernoulli(torch.full((n, 5), 0.5)).double()


def flat(gradients: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients])


def gradient(loss: Tensor, model: lb.VAE) -> Tensor:
    return flat(torch.autograd.grad(loss, list(model.parameters())))


def exact_elbo(model: lb.VAE, x: Tensor) -> Tensor:
    """sum_z q(z|x) [log p(x, z) - log q(z|x)], code by code."""
    qz = model.posterior(x, Context())
    total = torch.zeros(len(x)).double()
    for z in states(qz):
        each = z.expand(len(x), *z.shape)
        log_q = qz.log_prob(each)
        total = total + log_q.exp() * (model.log_joint(x, (each[None],))[0] - log_q)
    return total


@pytest.mark.parametrize("z_shape", [(4,), (2, 3)])
@pytest.mark.parametrize("kl", ["closed_form", "sampled"])
def test_enumerated_value_and_gradient_are_the_sum_over_all_codes(
    z_shape: tuple[int, ...], kl: str
) -> None:
    model, x = finite(z_shape), bits(6)
    draw = model(x)
    assert draw.is_enumerated
    assert torch.allclose(draw.iwae, log_evidence(model, x), rtol=1e-10)
    assert torch.allclose(draw.log_m.exp().sum(0), torch.ones(6).double())
    exact = exact_elbo(model, x)
    loss = ELBO(kl=kl).terms(draw, STEP).total
    assert torch.allclose(-loss, exact.mean(), rtol=1e-10)
    assert torch.allclose(
        gradient(loss, model), gradient(-exact.mean(), model), rtol=1e-8, atol=1e-12
    )


def test_a_path_gradient_over_all_codes_is_the_gradient_itself() -> None:
    model, x = finite((2, 3)), bits(6)
    loss = ELBO(path_gradient=True).terms(model(x, path_gradient=True), STEP).total
    assert torch.allclose(
        gradient(loss, model), gradient(-exact_elbo(model, x).mean(), model), rtol=1e-8, atol=1e-12
    )


@pytest.mark.parametrize("temperature", [0.3, 2 / 3, 3.0])
def test_straight_through_the_value_is_that_of_the_discrete_model_at_any_temperature(
    temperature: float,
) -> None:
    model = finite((2, 3))
    x = bits(1)
    exact = exact_elbo(model, x).item()
    drawn = drawing(model, "straight_through")
    drawn.posterior.temperature = temperature
    torch.manual_seed(0)
    for kl in ("closed_form", "sampled"):
        values = ELBO(kl=kl).terms(drawn(x.expand(10_000, 5)), STEP).loss
        assert abs(values.mean() + exact) < 4 * values.std() / 100


def means(
    model: lb.VAE, draws: CodeSampling, temperature: float, x: Tensor
) -> tuple[Tensor, Tensor]:
    """Distortion, rate and gradient of the loss in mean over 50 repetitions, and standard
    errors.
    """
    drawn = drawing(model, draws)
    drawn.posterior.temperature = temperature
    torch.manual_seed(0)
    rows = []
    for _ in range(50):
        terms = ELBO().terms(drawn(x.repeat(400, 1)), STEP)
        own = [
            terms.log["distortion"].mean()[None],
            terms.log["rate"].mean()[None],
            gradient(terms.total, drawn),
        ]
        rows.append(torch.cat(own))
    found = torch.stack(rows)
    return found.mean(0), found.std(0) / math.sqrt(50)


def test_at_a_low_temperature_gumbel_softmax_is_the_discrete_model_in_value_and_gradient() -> None:
    """In mean, at 0.05; at 3 it is not."""
    model, x = finite((3,)), bits(2)
    draw = model(x)
    exact = torch.cat(
        [
            draw.distortion.mean()[None],
            draw.rate.mean()[None],
            gradient(-exact_elbo(model, x).mean(), model),
        ]
    ).detach()
    low, error = means(model, "gumbel_softmax", 0.05, x)
    # the temperature itself leaves a bias of its own order, a twentieth of the largest entry and
    # less
    assert bool(((low - exact).abs() <= 4.5 * error + 0.02 * exact[2:].abs().max()).all())
    high, error = means(model, "gumbel_softmax", 3.0, x)
    assert bool(((high - exact).abs() > 4.5 * error + 0.02 * exact[2:].abs().max()).any())
    assert "elbo" not in ELBO().terms(drawing(model, "gumbel_softmax")(x), STEP).log


def test_the_rate_of_the_concrete_relaxation_exceeds_that_of_the_codes_at_any_temperature() -> None:
    """The relaxed z is a function of the noise that tells more than the code: data processing. The
    distortion tends.
    """
    model, x = finite((3,)), bits(2)
    draw = model(x)
    for temperature in (0.02, 2 / 3):
        found, error = means(model, "concrete", temperature, x)
        assert found[1] > draw.rate.mean() + 4 * error[1] + 0.05
        off = (found[0] - draw.distortion.mean()).abs() - 4 * error[0]
        assert off < 0.02 if temperature < 0.1 else off > 0.02


def test_relaxed_it_is_a_bound_on_the_evidence_of_the_relaxed_model() -> None:
    """One bit, whose relaxation is integrated numerically on the logit scale."""
    torch.manual_seed(0)
    model = lb.VAE(
        lb.priors.Bernoulli((1,), learned=True),
        lb.posteriors.Bernoulli((5,), (1,), draws="concrete"),
        lb.likelihoods.Bernoulli((1,), (5,)),
    ).double()
    x = bits(1)
    pz = relaxed(model.prior(Context()), model.posterior.temperature)
    logit = torch.linspace(-30, 30, 6001, dtype=torch.float64)
    z = logit.sigmoid()[:, None]
    with torch.no_grad():
        log_p = pz.log_prob(z) + model.likelihood(z, Context()).log_prob(x)
        evidence = torch.logsumexp(log_p + torch.log(z * (1 - z))[:, 0], 0) + math.log(60 / 6000)
        discrete = log_evidence_of_bits(model, x)
        weighted = model(x, samples=100_000).iwae
        elbo = model(x, samples=100_000).log_w
    assert abs(weighted - evidence) < 0.02
    assert elbo.mean() < evidence + 4 * elbo.std() / math.sqrt(100_000)
    assert abs(evidence - discrete) > 1e-3  # another model
    with torch.no_grad():
        assert torch.allclose(
            model.eval()(x).iwae, discrete
        )  # in evaluation it is the discrete one


@pytest.mark.parametrize("kind", ["Bernoulli", "Categorical"])
@pytest.mark.parametrize("temperature", [0.1, 2 / 3])
def test_relaxed_densities_are_those_of_the_draw_where_float32_rounds_it_to_a_code(
    kind: str, temperature: float
) -> None:
    """Of a q that is all but certain: the rate is that in float64, and no less than the code's; and
    E_q[p / q] = 1.
    """
    torch.manual_seed(0)
    z_shape = (1,) if kind == "Bernoulli" else (1, 3)
    prior = getattr(lb.priors, kind)(z_shape)
    posterior = getattr(lb.posteriors, kind)(
        (5,), z_shape, draws="concrete", temperature=temperature
    )
    model = lb.VAE(prior, posterior, lb.likelihoods.Bernoulli(z_shape, (5,)))
    *_, last = (own for own in posterior.net.modules() if isinstance(own, torch.nn.Linear))
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    for certain in (3.0, 12.0, 40.0):
        with torch.no_grad():
            last.bias[0] = certain
            latent = model(bits(1).float(), samples=40_000).latents[0]
            log_ratio = (latent.log_p - latent.log_q)[:, 0]
            logits = torch.zeros(z_shape).double()
            logits[..., 0] = certain
            family = OneHot if kind == "Categorical" else torch.distributions.Bernoulli
            p, q = (
                relaxed_logits(Independent(family(logits=own), 1), temperature)
                for own in (torch.zeros_like(logits), logits)
            )
            z = latent.z[:, 0].double()
            assert torch.allclose(
                log_ratio.double(), p.log_prob(z) - q.log_prob(z), rtol=1e-3, atol=1e-3
            )
        assert -log_ratio.mean() > certain - 3
        if certain < 5:
            ratio = log_ratio.exp()
            assert abs(ratio.mean() - 1) < 4 * ratio.std() / 200


def log_evidence_of_bits(model: lb.VAE, x: Tensor) -> Tensor:
    every = torch.tensor([[[0.0]], [[1.0]]], dtype=x.dtype)
    return torch.logsumexp(model.log_joint(x, (every.expand(2, len(x), 1),)), 0)


@pytest.mark.parametrize(
    "draws", ["gumbel_softmax", "concrete", "straight_through", "enumerated", "sampled"]
)
def test_in_evaluation_there_is_the_discrete_model_however_it_was_trained(
    draws: CodeSampling,
) -> None:
    model = finite((2, 3))
    data = lb.data.from_arrays(bits(40).numpy(), splits="all")
    x = data.examples("all").double()
    result = lb.evaluate(drawing(model, draws), data, split="all", samples=7, curve=True)
    assert result.estimator == "exact: the sum over all 9 values of z, whatever K"
    assert result.samples == 9
    assert torch.allclose(result.values["nll"], -log_evidence(model, x).detach(), rtol=1e-10)
    assert torch.allclose(result.values["elbo"], exact_elbo(model, x).detach(), rtol=1e-10)
    assert result.curve == ()
    assert result.effective_samples is None
    assert result.latent_dimensions == len(result.rate_per_dimension) == 2


def test_many_codes_are_sampled_in_evaluation_and_bound_the_evidence() -> None:
    model = drawing(finite((6, 3)), "gumbel_softmax")  # 729 codes
    data = lb.data.from_arrays(bits(20).numpy(), splits="all")
    exact = log_evidence(model, data.examples("all").double()).detach()
    result = lb.evaluate(model, data, split="all", samples=500)
    assert result.samples == 500
    slack = -result.values["nll"] - exact
    assert -1 < slack.mean() <= 4 * slack.std() / math.sqrt(20)
    assert bool(((model.eval()(bits(3), samples=4).latents[0].z == 1).sum(-1) == 1).all())


FITS = {
    "gumbel_softmax": [ELBO(), ELBO(beta=2.0, free_bits=0.01, warmup=0.1), ReweightedWakeSleep()],
    "concrete": [
        ELBO(),
        ELBO(path_gradient=True),
        IWAE(),
        DReG(),
        Renyi(),
        Renyi(alpha=0.0),
        ReweightedWakeSleep(),
    ],
    "straight_through": [
        ELBO(),
        ELBO(path_gradient=True),
        IWAE(),
        Renyi(),
        Renyi(alpha=0.0),
        ReweightedWakeSleep(),
    ],
    "enumerated": [ELBO(), ELBO(path_gradient=True), Renyi(), ReweightedWakeSleep()],
    "sampled": [
        ReweightedWakeSleep(),
        ReweightedWakeSleep(phase="sleep"),
        ReweightedWakeSleep(phase="both"),
    ],
}
REFUSED = {
    "gumbel_softmax": {
        ELBO(kl="sampled"): (
            "ELBO estimates the rate .*, and Categorical "
            "draws z between codes, .*; use kl='auto', or draws"
        ),
        ELBO(path_gradient=True): "ELBO estimates the rate by log q - log p at the draws",
        IWAE(): (
            "IWAE weighs draws by .*, and Categorical draws z "
            "between codes, .*; use ELBO, or draws 'concrete' or"
        ),
        Renyi(): "Renyi weighs draws by .*, and Categorical draws z between codes",
        DReG(): "DReG weighs draws by .*, and Categorical draws z between codes",
    },
    "straight_through": {
        DReG(): "DReG reparameterises .*, and Categorical draws z from no density; use ELBO, or"
    },
    "enumerated": {
        IWAE(): (
            "IWAE weighs draws, .* of which q learns nothing, "
            "and Categorical enumerates z; use ELBO, or draws"
        ),
        Renyi(alpha=0.0): "Renyi of order 0 .*, and Categorical enumerates z; use ELBO",
        DReG(): "DReG reparameterises",
    },
    "sampled": {
        ELBO(): (
            "ELBO differentiates through draws, and Categorical "
            "draws z without a gradient; use Reweighted"
        ),
        IWAE(): "IWAE differentiates through draws",
        Renyi(): "Renyi differentiates through draws",
    },
}


@pytest.mark.parametrize(
    ("draws", "objective"),
    [(draws, each) for draws, every in FITS.items() for each in every],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_fits_trains(draws: CodeSampling, objective: Objective) -> None:
    """Every parameter gets a gradient, which fit checks, and the loss falls."""
    data = lb.data.from_arrays(
        torch.randint(0, 2, (200, 1)).expand(200, 5).float().numpy(), splits="train_valid_test"
    )
    torch.manual_seed(0)
    model = lb.VAE(
        lb.priors.Categorical((2, 3), learned=True),
        lb.posteriors.Categorical((5,), (2, 3), draws=draws),
        lb.likelihoods.Bernoulli((2, 3), (5,)),
    )
    history = lb.fit(
        model, objective, data, epochs=12, batch_size=20, learning_rate=5e-3, progress=False
    )
    nll = history.series("loss", "valid")
    assert nll[-1] < nll[0] - 0.5
    assert lb.evaluate(model, data).nll.value < 1.6  # log 2 is the entropy; it starts at 5 log 2


@pytest.mark.parametrize(
    ("draws", "objective", "words"),
    [
        (draws, objective, words)
        for draws, every in REFUSED.items()
        for objective, words in every.items()
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_what_does_not_fit_is_refused(
    draws: CodeSampling, objective: Objective, words: str
) -> None:
    with pytest.raises(ValueError, match=f"^{words}"):
        check_parts(objective, finite(draws=draws))


@pytest.mark.parametrize("draws", ["concrete", "straight_through"])
def test_bits_are_independent_entries_where_their_draws_have_probabilities(
    draws: CodeSampling,
) -> None:
    data = lb.data.from_arrays(bits(60).float().numpy(), splits="train_valid_test")
    model = lb.VAE(
        lb.priors.Bernoulli((3,)),
        lb.posteriors.Bernoulli((5,), (3,), draws=draws),
        lb.likelihoods.Bernoulli((3,), (5,)),
    )
    history = lb.fit(model, lb.objectives.BetaTC(), data, epochs=2, progress=False)
    assert history.series("total_correlation")[-1] is not None
    for other, words in (
        ("gumbel_softmax", "draws z between codes"),
        ("enumerated", "enumerates z"),
    ):
        posterior = lb.posteriors.Bernoulli((5,), (3,), draws=other)
        with pytest.raises(ValueError, match=f"^BetaTC estimates .*, and Bernoulli {words}"):
            check_parts(lb.objectives.BetaTC(), posterior)


def test_a_closed_form_that_the_relaxation_has_not_is_refused_before_training() -> None:
    data = lb.data.from_arrays(bits(30).numpy(), splits="train_valid_test")
    relaxation = drawing(finite(), "concrete")
    with pytest.raises(ValueError, match="has no closed form; use the sampled KL"):
        dry_run(relaxation, ELBO(kl="closed_form"), data)
    assert dry_run(relaxation, ELBO(), data) == "sampled"
    for draws in ("straight_through", "gumbel_softmax", "enumerated"):
        assert dry_run(drawing(finite(), draws), ELBO(kl="closed_form"), data) == "closed form"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"draws": "hard"}, "draws"),
        ({"temperature": 0.0}, "temperature is 0.0: it must be a positive number"),
        ({"temperature": math.nan}, "temperature is nan"),
        (
            {"draws": "enumerated"},
            (
                r"the latent has 59,049 states, and at most 1,024 "
                r"can be enumerated; use draws 'gumbel_softmax'"
            ),
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        lb.posteriors.Categorical((5,), (10, 3), **settings)


def test_too_many_bits_are_counted_too() -> None:
    with pytest.raises(ValueError, match="the latent has about 1e30 states"):
        lb.posteriors.Bernoulli((5,), (100,), draws="enumerated")


@pytest.mark.parametrize(
    ("prior", "posterior", "words"),
    [
        (
            lb.priors.StandardNormal,
            lb.posteriors.Categorical,
            "StandardNormal is a density of real z, and Categorical gives",
        ),
        (
            lb.priors.Categorical,
            lb.posteriors.DiagonalNormal,
            "Categorical gives probabilities of unit vectors, and Diag",
        ),
        (
            lb.priors.Bernoulli,
            lb.posteriors.Categorical,
            "Bernoulli gives probabilities of bits, and Categorical gives",
        ),
    ],
)
def test_p_and_q_must_be_of_the_same_kind(prior: type, posterior: type, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}"):
        lb.VAE(prior((3,)), posterior((5,), (3,)), lb.likelihoods.Bernoulli((3,), (5,)))


def test_the_draws_of_a_score_and_of_bits_are_enumerated_as_well() -> None:
    model = lb.VAE(
        lb.priors.Bernoulli((3,)),
        lb.posteriors.Bernoulli((5,), (3,)),
        lb.likelihoods.BinaryCrossEntropy((3,), (5,)),
    )
    assert model.eval()(torch.rand(2, 5)).log_m.exp().sum(0).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("draws", ["gumbel_softmax", "concrete", "straight_through"])
@pytest.mark.parametrize(("kind", "z_shape"), [("Bernoulli", (9,)), ("Categorical", (6, 3))])
def test_in_evaluation_codes_that_are_too_many_to_enumerate_are_drawn_as_codes(
    kind: str, z_shape: tuple[int, ...], draws: CodeSampling
) -> None:
    posterior = getattr(lb.posteriors, kind)((5,), z_shape, draws=draws)
    model = lb.VAE(
        getattr(lb.priors, kind)(z_shape), posterior, lb.likelihoods.Bernoulli(z_shape, (5,))
    ).eval()
    draw = model(bits(2).float(), samples=4)
    z = draw.latents[0].z
    assert z.shape == (4, 2, *z_shape)
    assert bool(((z == 0) | (z == 1)).all())
    assert not draw.is_relaxed
