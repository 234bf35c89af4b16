"""Hierarchies against a chain of normals whose evidence and posterior are known, inferred in both
directions.
"""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import lowerbound as lb
from lowerbound.cli import main
from lowerbound.compatibility import EVALUABLE, REALS, REPARAMETERISED
from lowerbound.config.build import describe_model
from lowerbound.evaluation import annealed, evidence, log_marginal, sandwich
from lowerbound.objective import Objective, Step
from lowerbound.roles import Context
from tests.composition import Z_SHAPE, build, data_for, names, refused
from tests.contracts import within
from tests.test_bounds import OBJECTIVES, PATH
from tests.test_exact import linear

N, D, Z = 300, 6, 2
SIGMA, WIDTH = 0.5, 0.6  # standard deviations of x given z_1, and of z_1 given z_2
UP, DOWN = "bottom_up", "top_down"
DIRECTIONS = [UP, DOWN]


def normal(
    x_size: int, z_size: int, matrix: Tensor, offset: Tensor, variance: Tensor
) -> lb.posteriors.DiagonalNormal:
    """N(matrix x + offset, diag(variance)) as a part."""
    part = lb.posteriors.DiagonalNormal((x_size,), (z_size,), network=linear).double()
    layer = part.net.layers[0]
    with torch.no_grad():
        layer.weight.copy_(torch.cat([matrix, torch.zeros_like(matrix)]))
        layer.bias.copy_(torch.cat([offset, variance.log()]))
    return part


def affine(matrix: Tensor, offset: Tensor) -> lb.networks.MLP:
    """A network factory for one given map."""

    def make(in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> nn.Module:
        network = linear(in_shape, out_shape).double()
        with torch.no_grad():
            network.layers[0].weight.copy_(matrix)
            network.layers[0].bias.copy_(offset)
        return network

    return make


def chain(
    inference: str, inflation: float = 1.0, slope: Tensor | None = None
) -> tuple[lb.models.Hierarchical, Tensor, Tensor]:
    """z_2 ~ N(0, I), z_1 ~ N(a z_2 + c, WIDTH^2), x ~ N(W z_1 + b, SIGMA^2): the model, data, and
    their log p(x).

    The columns of W are orthogonal, so that the true posterior is diagonal at every level. The
    standard deviations of q are those of the true posterior times ``inflation``.
    """
    eye = torch.eye(Z, dtype=torch.float64)
    a, c, b = (
        torch.tensor([1.5, -0.8]).double() if slope is None else slope,
        torch.tensor([0.3, -1.0]).double(),
        torch.randn(D).double(),
    )
    weight = torch.linalg.qr(torch.randn(D, Z).double()).Q * torch.tensor([2.0, 1.2]).double()
    likelihood = lb.likelihoods.Normal((Z,), (D,), scale=SIGMA, network=affine(weight, b)).double()
    noise = likelihood.log_scale.detach().exp() ** 2  # as float32 rounds it
    squares = weight.square().sum(0)
    # x -> what it says of z_1, with variance noise / squares
    backwards = weight.T / squares[:, None]
    seen = noise / squares
    conditional = normal(Z, Z, torch.diag(a), c, torch.full((Z,), WIDTH**2, dtype=torch.float64))
    if inference == UP:
        marginal = a**2 + WIDTH**2  # of z_1
        first = 1 / (1 / seen + 1 / marginal)
        second = 1 / (1 + a**2 / WIDTH**2)
        posteriors = [
            normal(
                D,
                Z,
                (first / seen)[:, None] * backwards,
                first / marginal * c - first / seen * (backwards @ b),
                first * inflation**2,
            ),
            normal(
                Z,
                Z,
                torch.diag(second * a / WIDTH**2),
                -second * a / WIDTH**2 * c,
                second * inflation**2,
            ),
        ]
        features = ()
    else:
        top = 1 / (1 + a**2 / (WIDTH**2 + seen))
        gain = top * a / (WIDTH**2 + seen)
        posteriors = [
            normal(Z, Z, eye, torch.zeros(Z).double(), seen * inflation**2),
            normal(Z, Z, torch.diag(gain), -gain * c, top * inflation**2),
        ]
        features = (affine(backwards, -backwards @ b), affine(eye, torch.zeros(Z).double()))
    model = lb.models.Hierarchical(
        lb.priors.StandardNormal((Z,)), posteriors, [conditional], likelihood, features, inference
    ).double()
    spread = weight @ torch.diag(a**2 + WIDTH**2) @ weight.T + noise * torch.eye(
        D, dtype=torch.float64
    )
    truth = MultivariateNormal(weight @ c + b, spread)
    x = truth.sample((N,))
    return model, x, truth.log_prob(x)


def small(
    inference: str, x_shape: tuple[int, ...] = (6,), network: object = lb.networks.MLP
) -> lb.models.Hierarchical:
    """Three levels of sizes 4, 3 and 2."""
    levels, ladder = [(4,), (3,), (2,)], inference == DOWN
    below = [(5,), (4,), (3,)] if ladder else [x_shape, (4,), (3,)]

    def conditional(
        in_shape: tuple[int, ...], out_shape: tuple[int, ...]
    ) -> lb.posteriors.DiagonalNormal:
        return lb.posteriors.DiagonalNormal(in_shape, out_shape, network=network)

    return lb.models.Hierarchical(
        prior=lb.priors.StandardNormal((2,)),
        posteriors=[conditional(below_z, z) for below_z, z in zip(below, levels, strict=True)],
        conditionals=[conditional((3,), (4,)), conditional((2,), (3,))],
        likelihood=lb.likelihoods.Normal((4,), x_shape),
        features=[network] * 3 if ladder else (),
        inference=inference,
    )


def gradient(objective: Objective, model: nn.Module, x: Tensor, seed: int) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(seed)
    objective.terms(
        model(x, None, objective.samples, objective.path_gradient), Step(1.0, N)
    ).total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("inference", DIRECTIONS)
def test_at_the_exact_posterior_every_weight_is_the_evidence(inference: str) -> None:
    model, x, exact = chain(inference)
    with torch.no_grad():
        draw = model(x, samples=7)
    assert torch.allclose(draw.log_w, exact.expand(7, N), rtol=1e-8, atol=0)
    assert torch.allclose(log_marginal(model, x, samples=10), exact, rtol=1e-8, atol=0)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("inference", DIRECTIONS)
def test_with_an_inflated_posterior_each_objective_lies_below_the_evidence(
    inference: str, objective: Objective
) -> None:
    model, x, exact = chain(inference, inflation=1.4)
    with torch.no_grad():
        bound = -objective.terms(
            model(x, None, objective.samples, objective.path_gradient), Step(1.0, N)
        ).loss
    slack = bound - exact
    assert -3 < slack.mean() <= 4 * float(slack.std()) / math.sqrt(N)


@pytest.mark.parametrize("inference", DIRECTIONS)
def test_the_importance_weighted_bound_rises_to_the_evidence(inference: str) -> None:
    model, x, exact = chain(inference, inflation=1.4)
    x, exact = x.repeat(16, 1), exact.repeat(16)  # fresh noise for each copy
    one, ten, many = (log_marginal(model, x, samples=k, seed=k) for k in (1, 10, 500))
    for lower, upper in ((one, ten), (ten, many)):
        assert (upper - lower).mean() > 4 * float((upper - lower).std()) / math.sqrt(len(x))
    assert abs(float((many - exact).mean())) < 5e-3


@pytest.mark.parametrize("inference", DIRECTIONS)
def test_rates_of_levels_sum_to_the_rate_and_are_those_of_the_draws_in_mean(inference: str) -> None:
    model, x, _ = chain(inference, inflation=1.4)
    with torch.no_grad():
        draw = model(x.repeat(20, 1), samples=5)
    closed, sampled = draw.rates_by("auto"), draw.rates_by("sampled")
    assert torch.allclose(sum(closed), draw.rate)
    known = [latent.kl is not None for latent in draw.latents]
    assert known == ([False, True] if inference == UP else [True, True])
    for i in range(2):
        assert torch.equal(closed[i], sampled[i]) is not known[i]
        assert within(closed[i] - sampled[i], 0.0)
    scores = draw.scores(draw.rate)
    assert torch.equal(scores["rate/1"], closed[0])
    assert torch.equal(scores["rate/2"], closed[1])
    per_dimension = draw.rate_per_dimension
    assert (per_dimension is None) == (inference == UP)
    if per_dimension is not None:
        assert torch.allclose(per_dimension[:, :Z].sum(1), closed[0])
        assert torch.allclose(per_dimension[:, Z:].sum(1), closed[1])


@pytest.mark.parametrize(("path", "ordinary"), PATH, ids=lambda objective: type(objective).__name__)
@pytest.mark.parametrize("inference", DIRECTIONS)
def test_a_path_gradient_is_the_ordinary_one_in_expectation(
    inference: str, path: Objective, ordinary: Objective
) -> None:
    model, x, _ = chain(inference, inflation=1.4)
    x = x[:16].repeat(100, 1)
    pairs = [
        (gradient(path, model, x, seed), gradient(ordinary, model, x, seed)) for seed in range(40)
    ]
    of_q = [
        name
        for name in pairs[0][0]
        if name.startswith(
            ("posteriors", "ways") + (("conditionals",) if inference == DOWN else ())
        )
    ]
    for name in pairs[0][0]:
        if name not in of_q:
            assert all(
                torch.allclose(ours[name], theirs[name], rtol=1e-8, atol=1e-10)
                for ours, theirs in pairs
            ), name
            continue
        difference = torch.stack([ours[name] - theirs[name] for ours, theirs in pairs])
        assert difference.std(0).max() > 1e-4, name  # another estimator
        assert bool(
            (
                difference.mean(0).abs() <= 5 * difference.std(0) / math.sqrt(len(pairs)) + 1e-12
            ).all()
        ), name


@pytest.mark.parametrize("inference", DIRECTIONS)
def test_a_path_gradient_vanishes_at_the_exact_posterior(inference: str) -> None:
    model, x, _ = chain(inference)
    sizes = {}
    for objective in (lb.objectives.DReG(samples=5), lb.objectives.IWAE(samples=5)):
        gradients = gradient(objective, model, x, seed=0)
        sizes[type(objective)] = torch.cat(
            [g.flatten() for name, g in gradients.items() if name.startswith("posteriors")]
        ).norm()
    assert sizes[lb.objectives.DReG] < 1e-8 * sizes[lb.objectives.IWAE]


@pytest.mark.parametrize("inference", DIRECTIONS)
@pytest.mark.parametrize("path_gradient", [False, True])
def test_a_draw_is_the_same_with_path_gradients_and_batch_statistics_move_once(
    inference: str, path_gradient: bool
) -> None:
    def network(in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> nn.Module:
        return nn.Sequential(
            nn.BatchNorm1d(in_shape[0]), nn.Dropout(0.3), lb.networks.MLP(in_shape, out_shape)
        )

    model, x = small(inference, network=network), torch.randn(9, 6)
    torch.manual_seed(3)
    plain = model(x, samples=4)
    moved = {
        name: int(value)
        for name, value in model.named_buffers()
        if name.endswith("num_batches_tracked")
    }
    assert set(moved.values()) == {1}
    torch.manual_seed(3)
    again = model(x, samples=4, path_gradient=path_gradient)
    assert torch.allclose(plain.log_w, again.log_w, rtol=1e-4, atol=1e-4)
    assert {
        int(value) for name, value in model.named_buffers() if name.endswith("num_batches_tracked")
    } == {2}


@pytest.mark.parametrize("inference", DIRECTIONS)
def test_verbs_agree_with_the_draw(inference: str) -> None:
    model, x = small(inference).double(), torch.randn(5, 6).double()
    with torch.no_grad():
        draw = model(x, samples=3)
        latents = tuple(latent.z for latent in draw.latents)
        assert [z.shape for z in latents] == [(3, 5, 4), (3, 5, 3), (3, 5, 2)]
        assert torch.allclose(model.log_joint(x, latents), draw.log_px + draw.log_pz)
        assert torch.allclose(model.log_prior(latents, Context()), draw.log_pz)
        assert torch.allclose(model.log_posterior(x, latents, Context()), draw.log_qz)
    joint_sample_for, needs_joint_sample = model.sample_joint(4)
    assert joint_sample_for.shape == (4, 6)
    assert [z.shape for z in needs_joint_sample] == [(4, 4), (4, 3), (4, 2)]
    assert torch.equal(model.sample(3, seed=1), model.sample(3, seed=1))


def test_a_code_holds_all_levels_and_decodes_from_the_top_ones_alone() -> None:
    model, x, _ = chain(UP)
    code = model.encode(x)
    assert code.shape == (N, 2 * Z)
    assert torch.allclose(code[:, :Z], model.posteriors["1"](x, Context()).mean)
    assert torch.allclose(code[:, Z:], model.posteriors["2"](code[:, :Z], Context()).mean)
    assert torch.equal(model.reconstruct(x), model.decode(code))
    assert torch.allclose(model.decode(code), model.likelihood(code[:, :Z], Context()).mean)
    below = model.conditionals["1"](code[:, Z:], Context()).mean
    assert torch.allclose(model.decode(code[:, Z:]), model.likelihood(below, Context()).mean)
    with pytest.raises(ValueError, match="ends in 4 values, or in 2 of the top ones alone"):
        model.decode(code[:, :3])
    mean, scale = model.prior_scale(code[0])
    assert torch.allclose(mean[:Z], model.conditionals["1"](code[0, Z:], Context()).mean)
    assert torch.allclose(scale, torch.tensor([WIDTH, WIDTH, 1.0, 1.0]).double())
    assert model.down_to(code, 1).shape == (N, 4)
    assert model.down_to(code, 2).shape == (N, 2)


@pytest.mark.parametrize("start", ["posterior", "prior"])
@pytest.mark.parametrize("inference", DIRECTIONS)
def test_annealing_moves_all_levels(inference: str, start: str) -> None:
    model, x, exact = chain(inference, inflation=1.4)
    x, exact = x[:40], exact[:40]
    few = annealed(model, x, chains=50, temperatures=4, start=start, seed=0)
    ratio = (few.log_w - exact).exp().mean(0)
    assert within(ratio, 1.0, 4.5)  # unbiased, however few the temperatures
    between = sandwich(model, n=40, chains=4, temperatures=60, start=start, seed=0)
    gap = between.upper - between.lower
    assert -4 * gap.std() / math.sqrt(40) < gap.mean() < (0.3 if start == "posterior" else 1.0)


def test_at_an_exact_start_annealing_is_exact() -> None:
    model, x, exact = chain(DOWN)
    walked = annealed(model, x[:20], chains=3, temperatures=5, seed=0)
    assert torch.allclose(walked.log_w, exact[:20].expand(3, 20), rtol=1e-6)


def test_an_evaluation_says_what_each_level_holds_and_which_is_empty() -> None:
    model, x, _ = chain(DOWN, slope=torch.zeros(Z).double())  # z_1 does not depend on z_2
    data = lb.data.from_arrays(x.numpy(), splits="train_valid_test")
    result = lb.evaluate(model.float(), data, samples=50)
    first, second = result.levels
    assert first.rate.value + second.rate.value == pytest.approx(result.rate.value, rel=1e-5)
    assert abs(second.rate.value) < 1e-4
    assert (first.active_units, second.active_units, result.active_units) == (Z, 0, Z)
    assert any(
        "collapse of 1 of 2 latents: the rate of z_2" in warning for warning in result.warnings
    )
    assert "rate/1" in str(result)
    assert len(result.as_json()["levels"]) == 2


def test_the_mean_of_an_upper_level_is_averaged_over_the_draws_below() -> None:
    model, x, _ = chain(UP)
    with torch.no_grad():
        estimates = evidence(model, x, samples=4000, chunk=100)
    # E[z_2|x] = E[z_2|z_1] averaged over q(z_1|x), which is linear here
    expected = model.encode(x)[:, Z:]
    assert torch.allclose(estimates.means[1][..., 0], expected, atol=0.1)
    assert (estimates.means[1][..., 0] - expected).square().mean().sqrt() < 0.02


def test_of_gaps_it_says_what_works_instead() -> None:
    model, x, _ = chain(UP)
    with pytest.raises(
        ValueError, match=r"refining q needs one q\(z\|x\).*Hierarchical.*use a VAE"
    ):
        lb.gaps(model, x[:3])


@pytest.mark.parametrize("inference", DIRECTIONS)
def test_it_is_described_saved_loaded_and_resumed(inference: str, tmp_path: Path) -> None:
    data = lb.data.from_arrays(100 + 50 * torch.randn(80, 6).numpy(), splits="train_valid_test")
    how = {"epochs": 2, "batch_size": 16, "checkpoint_seconds": 0, "progress": False}

    def fresh() -> lb.models.Hierarchical:
        torch.manual_seed(0)
        return small(inference)

    model = fresh()
    history = lb.fit(model, lb.objectives.ELBO(), data, **how, out=tmp_path / "run")
    assert (
        history.series("loss")[1] < history.series("loss")[0]
    )  # in units of the data, fifty times too large otherwise
    assert set(history.epochs[0]["valid"]) >= {"rate/1", "rate/2", "rate/3"}
    again = lb.load(tmp_path / "run")
    assert describe_model(again) == describe_model(model)
    assert all(
        torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items()
    )
    assert lb.evaluate(again, data, samples=3) == lb.evaluate(model, data, samples=3)
    passes = iter(range(5))

    def interrupt(*_: object) -> None:
        if next(passes, None) is None:
            raise KeyboardInterrupt

    killed = fresh()
    killed.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        lb.fit(killed, lb.objectives.ELBO(), data, **how, out=tmp_path / "killed")
    resumed = fresh()
    lb.fit(resumed, lb.objectives.ELBO(), data, **how, out=tmp_path / "killed", resume=True)
    assert all(
        torch.equal(value, again.state_dict()[name]) for name, value in resumed.state_dict().items()
    )


def companions() -> list[tuple[str, ...]]:
    """Every prior and posterior that has real z, and every likelihood, with a hierarchy at least
    once.
    """
    priors = [
        name for name in names("prior") if not refused((name, "DiagonalNormal", "Normal", "ELBO"))
    ]
    wanted = {REALS, REPARAMETERISED, EVALUABLE}
    posteriors = [
        name for name in names("posterior") if wanted <= build("posterior", name, (4,)).capabilities
    ]
    roles = [priors, posteriors, names("likelihood")]
    return list(
        itertools.islice(zip(*map(itertools.cycle, roles), strict=False), max(map(len, roles)))
    )


def composed(
    inference: str, prior: str, posterior: str, likelihood: str, x_shape: tuple[int, ...]
) -> lb.models.Hierarchical:
    ladder = inference == DOWN
    return lb.models.Hierarchical(
        prior=build("prior", prior, Z_SHAPE),
        posteriors=[
            build("posterior", posterior, Z_SHAPE if ladder else x_shape),
            build("posterior", posterior, Z_SHAPE),
        ],
        conditionals=[build("posterior", posterior, Z_SHAPE)],
        likelihood=build("likelihood", likelihood, x_shape),
        features=[lb.networks.MLP] * 2 * ladder,
        inference=inference,
    )


@pytest.mark.parametrize("inference", DIRECTIONS)
@pytest.mark.parametrize("parts", companions(), ids="-".join)
def test_every_part_works_in_it(parts: tuple[str, ...], inference: str) -> None:
    prior, posterior, likelihood = parts
    if inference == DOWN and posterior not in ("DiagonalNormal", "FullNormal"):
        posterior = "DiagonalNormal"  # no product is known of others
    data = data_for(likelihood)
    model = composed(inference, prior, posterior, likelihood, data.event_shape)
    history = lb.fit(model, lb.objectives.ELBO(), data, epochs=1, batch_size=24, progress=False)
    assert history.series("loss")[0] is not None
    assert lb.evaluate(model, data, samples=3).n == 6
    assert model.sample(2, 0, data.context("test")[:2]).shape == (2, *data.event_shape)


@pytest.mark.parametrize("inference", DIRECTIONS)
@pytest.mark.parametrize("objective", names("objective"))
def test_every_objective_trains_it_or_says_what_does(objective: str, inference: str) -> None:
    model, data, refusal = small(inference, (1, 8, 8)), lb.data.load("digits"), ""
    data = lb.data.from_arrays(data.examples("train")[:40].numpy(), splits="train_valid_test")
    try:
        history = lb.fit(
            model, build("objective", objective, ()), data, epochs=1, batch_size=20, progress=False
        )
    except ValueError as error:
        refusal = str(error)
    if refusal:
        assert re.fullmatch(r".* (one latent|independent entries).*; use .*", refusal)
    else:
        assert history.series("loss")[0] is not None


@pytest.mark.parametrize("inference", DIRECTIONS)
def test_codes_are_refused(inference: str) -> None:
    with pytest.raises(
        ValueError, match="Hierarchical draws each level .* Bernoulli gives codes; use a posterior"
    ):
        composed(inference, "StandardNormal", "Bernoulli", "Bernoulli", (1, 8, 8))


@pytest.mark.parametrize("inference", DIRECTIONS)
def test_from_the_command_line(
    inference: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, model = (
        str(tmp_path / "run"),
        ["--model", "Hierarchical", "--model.inference", inference, "--latent", "[6,2]"],
    )
    top = ["--features.1", "Conv"] if inference == DOWN else ["--posteriors.1.network", "Conv"]
    assert (
        main(
            [
                "train",
                *model,
                *top,
                "--data.binarize",
                "threshold",
                "--epochs",
                "1",
                "--out",
                out,
                "--samples",
                "5",
            ]
        )
        == 0
    )
    assert "rate/2" in capsys.readouterr().out
    for words in (
        ["evaluate", out, "--samples", "5"],
        ["sample", out, "-n", "3", "--out", str(tmp_path / "x.npy")],
        ["encode", out, "digits", "--out", str(tmp_path / "z.npy")],
        ["traverse", out, "--out", str(tmp_path / "t.png")],
        ["interpolate", out, "--out", str(tmp_path / "i.png")],
    ):
        assert main(words) == 0, words
    assert main(["gaps", out]) == 2
    assert "use a VAE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--model", "Hierarchical", "--latent", "5"],
            "latent is 5: a hierarchy has two levels or more",
        ),
        (["--latent", "[[5],[3]]"], "latent must hold integers"),
        (["--model", "Hierarchical", "--posterior", "FullNormal"], "--posterior"),
        (["--model", "Hierarchical", "--model.inference", "sideways"], "bottom_up"),
        (
            ["--model", "Hierarchical", "--posteriors.3.network.hidden", "[3]"],
            "--posteriors.3.network.hidden",
        ),
        (["--model", "Ladder"], "unknown model 'Ladder'"),
    ],
)
def test_refused_in_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *words, "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_parts_that_do_not_fit_are_refused() -> None:
    conditional = lb.posteriors.DiagonalNormal
    prior, likelihood = lb.priors.StandardNormal((2,)), lb.likelihoods.Normal((3,), (6,))
    lower, upper = conditional((6,), (3,)), conditional((3,), (2,))
    with pytest.raises(ValueError, match="at least 2"):
        lb.models.Hierarchical(lb.priors.StandardNormal((3,)), [lower], [], likelihood)
    with pytest.raises(ValueError, match=r"conditionals\.1 is built for"):
        lb.models.Hierarchical(prior, [lower, upper], [upper], likelihood)
    with pytest.raises(TypeError, match=r"conditionals\.1=StandardNormal is not a Posterior"):
        lb.models.Hierarchical(prior, [lower, upper], [prior], likelihood)
