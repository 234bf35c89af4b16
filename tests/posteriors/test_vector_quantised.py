"""Vector quantisation: how the codes move, where gradients go, and what the bound is a bound on."""

from __future__ import annotations

import itertools
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.codebook import Codebook
from lowerbound.data.dataset import Dataset
from lowerbound.distributions import CodePoint
from lowerbound.draw import RateEstimator
from lowerbound.objective import Step
from lowerbound.roles import Context
from lowerbound.shapes import Shape
from tests.contracts import NO_CONTEXT, PosteriorContract, check_gradients, moved
from tests.training.test_fit import Stopping, weights

VectorQuantised = lb.posteriors.VectorQuantised
IndependentCodes, AutoregressiveCodes = lb.priors.IndependentCodes, lb.priors.AutoregressiveCodes
X = (4,)


class TestVectorQuantised(PosteriorContract):
    make = partial(VectorQuantised, codes=6)

    def quadrature(self, qz: Distribution) -> tuple[Tensor, Tensor]:
        """All codes: a sum."""
        assert isinstance(qz, CodePoint)
        codes = qz.book.vectors.reshape(-1, 1, *qz.event_shape).expand(
            -1, *qz.batch_shape, *qz.event_shape
        )
        return codes, torch.ones_like(codes)

    @pytest.mark.parametrize("kl", ["auto", "sampled"])
    def test_gradients_of_the_loss_are_those_of_finite_differences(self, kl: RateEstimator) -> None:
        """Of prior and likelihood; the posterior's are handed through the choice, which has
        none.
        """
        model, x = tiny().eval(), torch.rand(5, *X).double()

        def loss() -> Tensor:
            return lb.objectives.ELBO(kl=kl)(model(x), Step(0.5, 100)).total

        check_gradients(loss, model.prior, model.likelihood)

    @pytest.mark.parametrize("leading", [(), (7,), (2, 7)])
    def test_is_evaluated_at_any_leading_dimensions(self, leading: Shape) -> None:
        """Also where it has not drawn, which is where nobody needs it: q is 0 there."""
        qz = self.make((4,), (3,))(torch.rand(5, 4), NO_CONTEXT)
        assert torch.equal(
            qz.log_prob(torch.randn(*leading, 5, 3)), torch.full((*leading, 5), -math.inf)
        )
        assert torch.equal(qz.log_prob(qz.sample(leading)), torch.zeros(*leading, 5))

    def test_treats_examples_separately(self) -> None:
        """A random z has no probability under any: what is quantised, and the codes, are compared
        instead.
        """
        part, x = moved(self.make((4,), (3,))).double().eval(), torch.rand(5, 4).double()
        qz = part(x, NO_CONTEXT)
        for b in range(5):
            alone = part(x[b : b + 1], NO_CONTEXT)
            assert torch.allclose(alone.encoded, qz.encoded[b : b + 1], rtol=1e-10)
            assert torch.equal(alone.index, qz.index[b : b + 1])

    def test_a_masked_value_changes_nothing(self) -> None:
        part, x = moved(self.make((4,), (3,))).eval(), torch.rand(5, 4)
        context = Context(mask=torch.tensor([[1, 0, 1, 1]]).expand(5, 4))
        other = torch.where(context.mask == 1, x, torch.nan)
        assert torch.equal(part(x, context).encoded, part(other, context).encoded)
        assert not torch.allclose(part(x, context).encoded, part(x, NO_CONTEXT).encoded)


def tiny(codes: int = 3, positions: int = 2, **settings: Any) -> lb.VAE:
    """A model in float64 whose p(x) is a sum over all codes^positions latents."""
    z_shape = (2, positions)
    prior = IndependentCodes(z_shape, codes)
    nn.init.normal_(prior.logits)
    posterior = VectorQuantised(X, z_shape, codes, **settings)
    return lb.VAE(prior, posterior, lb.likelihoods.Normal(z_shape, X)).double()


def log_evidence(model: lb.VAE, x: Tensor) -> Tensor:
    """Log p(x), by enumeration."""
    book = model.posterior.codebook()
    assert book is not None
    every = torch.tensor(list(itertools.product(range(len(book)), repeat=book.positions)))
    z = book.take(every)[:, None].expand(-1, len(x), *[-1] * len(book.z_shape))
    return torch.logsumexp(model.log_joint(x, (z,)), 0)


@pytest.mark.parametrize("prior", [IndependentCodes, partial(AutoregressiveCodes, width=8)])
@pytest.mark.parametrize("codes", [1, 4])
def test_the_elbo_is_one_term_of_the_evidence(prior: Any, codes: int) -> None:
    model = tiny(codes).eval()
    model.prior = prior((2, 2), codes=codes).double()
    for p in model.prior.parameters():
        nn.init.normal_(p)
    x = torch.randn(50, *X).double()
    with torch.no_grad():
        draw = model(x, samples=3)
        exact = log_evidence(model, x)
        z = draw.latents[0].z[:1]
        assert torch.allclose(draw.log_qz, torch.zeros(1).double())
        assert torch.allclose(-draw.rate - draw.distortion, model.log_joint(x, (z,))[0])
        assert torch.allclose(draw.iwae, model.log_joint(x, (z,))[0])
    assert bool((draw.iwae <= exact + 1e-12).all())
    if codes == 1:  # there is nothing to choose, and the sum has one term
        assert torch.allclose(draw.iwae, exact)
    else:
        assert bool((draw.iwae < exact).all())


def test_the_rate_is_what_it_takes_to_name_the_codes() -> None:
    model = tiny(codes=8, positions=3).eval()
    nn.init.zeros_(model.prior.logits)
    assert torch.allclose(model(torch.randn(5, *X)).rate, torch.tensor(3 * math.log(8)).double())


class Fixed(nn.Module):
    """(N, 4) -> (N, 2, 2), the values as they are, from a parameter, so that gradients can be asked
    for.
    """

    def __init__(self, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, value: Tensor) -> Tensor:
        return self.scale * value.unflatten(1, (2, 2))


def vectors_of(x: Tensor) -> Tensor:
    """The vectors that Fixed makes of x, (2 N, 2)."""
    return x.unflatten(1, (2, 2)).transpose(1, 2).reshape(-1, 2)


def test_the_codes_are_running_means_of_what_is_assigned_to_them() -> None:
    """Against the two averages of the paper, kept apart: N_k and m_k, and c_k = m_k / N_k."""
    part = (
        VectorQuantised(X, (2, 2), codes=3, decay=0.9, restart=0.0, network=Fixed).double().train()
    )
    part.vectors.copy_(torch.tensor([[3.0, 0.0], [0.0, 3.0], [-50.0, -50.0]]))
    n = part.shares.clone()
    m = n[:, None] * part.vectors
    for _ in range(30):
        x = torch.randn(7, *X).double()
        rows = vectors_of(x)
        nearest = torch.cdist(rows, m / n[:, None]).argmin(1)
        one_hot = nn.functional.one_hot(nearest, 3).double()
        n = 0.9 * n + 0.1 * one_hot.mean(0)
        m = 0.9 * m + 0.1 * one_hot.T @ rows / len(rows)
        part(x, NO_CONTEXT)
        assert torch.allclose(part.vectors, m / n[:, None], rtol=1e-10)
        assert torch.allclose(part.shares, n, rtol=1e-10)
    assert torch.allclose(
        part.vectors[2], torch.tensor([-50.0, -50.0]).double()
    )  # never the nearest, never moved


def test_with_fixed_assignments_the_codes_end_at_the_means_of_clusters() -> None:
    part = VectorQuantised((2,), (2,), codes=2, decay=0.8, network=lb.networks.MLP).double().train()
    part.net = nn.Identity()
    part.vectors.copy_(torch.tensor([[9.0, 9.0], [-9.0, -8.0]]))
    x = torch.cat([10 + torch.randn(30, 2), -10 + torch.randn(30, 2)]).double()
    for _ in range(200):
        part(x, NO_CONTEXT)
    assert torch.allclose(part.vectors, torch.stack([x[:30].mean(0), x[30:].mean(0)]))


def test_a_code_that_is_not_used_starts_again_at_a_vector_of_the_batch() -> None:
    """After as many batches as its share needs to fall below the threshold, and not before."""
    part = VectorQuantised(X, (2, 2), codes=2, decay=0.9, restart=0.5, network=Fixed).train()
    part.vectors.copy_(torch.tensor([[0.0, 0.0], [1e3, 1e3]]))
    x = torch.randn(20, *X)
    needed = math.ceil(math.log(0.5) / math.log(0.9))
    for _ in range(needed - 1):
        part(x, NO_CONTEXT)
    assert part.vectors[1, 0] == 1e3
    qz = part(x, NO_CONTEXT)
    spread = vectors_of(x).std()
    assert torch.cdist(part.vectors[1:], vectors_of(x)).min() < 0.1 * spread
    assert part.shares[1] == 0.5
    assert bool((part.usage(qz) > 0).all())  # where vectors are, it is used at once


def test_codes_that_are_used_are_never_started_again() -> None:
    part = VectorQuantised(X, (2, 2), codes=4, decay=0.5, restart=0.9, network=Fixed).train()
    part.vectors.copy_(torch.tensor([[5.0, 5.0], [-5.0, 5.0], [5.0, -5.0], [-5.0, -5.0]]))
    corners = part.vectors.clone()
    # the first corner is met once in 100, far below the threshold of 0.9 / 4
    rows = torch.cat([corners[:1], corners[1:].repeat(33, 1)])
    x = rows.reshape(-1, 2, 2).transpose(1, 2).flatten(1)
    for _ in range(10):
        part(x, NO_CONTEXT)
    assert part.shares[0] < 0.02
    assert torch.allclose(part.vectors, corners)


@pytest.mark.parametrize("samples", [1, 3])
def test_a_pass_moves_the_codes_once_and_evaluation_never(samples: int) -> None:
    """And log p(z), whose codes are those of after the move, knows the codes that were drawn."""
    torch.manual_seed(0)
    model = tiny(codes=5, decay=0.5).train()
    x = torch.randn(16, *X).double()
    alone = VectorQuantised(X, (2, 2), 5, decay=0.5).double().train()
    alone.load_state_dict(model.posterior.state_dict())
    draw = model(x, samples=samples)
    alone(x, NO_CONTEXT)
    assert torch.equal(model.posterior.vectors, alone.vectors)
    assert torch.equal(draw.log_qz, torch.zeros_like(draw.log_qz))
    assert bool(draw.log_w.isfinite().all())
    before = model.posterior.vectors.clone()
    model.eval()(x, samples=samples)
    assert torch.equal(model.posterior.vectors, before)


def test_the_gradient_reaches_the_encoder_as_it_leaves_the_decoder() -> None:
    """d loss / d e = d log p(x|z) / d z at z = c, and nothing of p(z)."""
    model = tiny(codes=3, commitment=0.0, network=Fixed).eval()
    x = torch.randn(6, *X).double()
    draw = model(x)
    loss = lb.objectives.ELBO()(draw, Step(1.0, 6)).loss.sum()
    # a CodePoint
    (gradient,) = torch.autograd.grad(loss, draw.latents[0].q.encoded, retain_graph=True)  # type: ignore[attr-defined]
    z = draw.latents[0].z.detach().requires_grad_()
    px = model.likelihood(z, NO_CONTEXT)
    (expected,) = torch.autograd.grad(-model.likelihood.log_prob(px, x, None).sum(), z)
    assert torch.allclose(gradient, expected[0])


def test_the_commitment_pulls_the_encoder_and_not_the_codes() -> None:
    model = tiny(codes=3, commitment=2.0, network=Fixed).eval()
    x = torch.randn(6, *X).double()
    draw = model(x)
    qz = draw.latents[0].q
    assert isinstance(qz, CodePoint)
    distance = ((qz.encoded - qz.quantised) ** 2).sum((1, 2))
    assert torch.allclose(draw.penalties["commitment"], 2 * distance)
    (gradient,) = torch.autograd.grad(draw.penalties["commitment"].sum(), qz.encoded)
    assert torch.allclose(gradient, 4 * (qz.encoded - qz.quantised))


def test_the_commitment_does_not_grow_with_the_batch() -> None:
    """Every example twice: the same penalty of each, hence the same weight beside the mean of the
    rest.
    """
    model = tiny(codes=3).eval()
    x = torch.randn(6, *X).double()
    once, twice = (model(each).penalties["commitment"] for each in (x, torch.cat([x, x])))
    assert torch.allclose(twice[:6], once)
    assert torch.allclose(twice.mean(), once.mean())


def test_the_commitment_is_part_of_the_objective_that_evaluation_reports() -> None:
    x = torch.rand(40, *X).double()
    model = lb.VAE(
        IndependentCodes((2, 2), codes=3),
        VectorQuantised(X, (2, 2), codes=3, commitment=2.0, network=Fixed),
        lb.likelihoods.BinaryCrossEntropy((2, 2), X),
    ).double()
    data = lb.data.from_arrays(x.numpy())
    result = lb.evaluate(model, data, "train", samples=1, objective=lb.objectives.ELBO())
    commitment = model.eval()(data.examples("train").double()).penalties["commitment"].mean().item()
    assert commitment > 0.01
    assert result.objective is not None
    assert result.cross_entropy is not None
    assert result.objective.value == pytest.approx(
        result.cross_entropy.value + result.rate.value + commitment, rel=1e-5
    )


def test_a_batch_that_is_not_finite_leaves_the_codes_alone() -> None:
    part = VectorQuantised(X, (2, 2), codes=5, network=Fixed).train()
    before = part.vectors.clone()
    x = torch.randn(6, *X)
    x[2, 1] = torch.nan
    part(x, NO_CONTEXT)
    assert torch.equal(part.vectors, before)
    assert bool(part.shares.isfinite().all())


@pytest.mark.parametrize("codes", [5, 40])
def test_the_codes_start_at_encoded_examples_all_different_and_only_once(codes: int) -> None:
    part = VectorQuantised(X, (2, 2), codes, network=Fixed)
    x = 100 + torch.randn(10, *X)
    part.prepare(x)
    assert torch.cdist(part.vectors, vectors_of(x)).amin(1).max() < 0.1
    assert len(part.vectors.unique(dim=0)) == codes
    started = part.vectors.clone()
    part.prepare(torch.randn(10, *X))
    assert torch.equal(part.vectors, started)


def vq_model(data: Dataset, codes: int = 8, autoregressive: bool = False) -> lb.VAE:
    z_shape, x_shape = (3, 4), data.event_shape
    prior = (
        AutoregressiveCodes(z_shape, codes, width=16)
        if autoregressive
        else IndependentCodes(z_shape, codes)
    )
    posterior = VectorQuantised(x_shape, z_shape, codes, restart=0.5, decay=0.9)
    return lb.VAE(prior, posterior, lb.likelihoods.Bernoulli(z_shape, x_shape))


@pytest.mark.parametrize("autoregressive", [False, True])
def test_it_learns_and_the_log_counts_the_codes(
    autoregressive: bool, binary_digits: Dataset, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = vq_model(binary_digits, autoregressive=autoregressive)
    history = lb.fit(
        model,
        lb.objectives.ELBO(),
        binary_digits,
        epochs=4,
        learning_rate=5e-3,
        progress=False,
        out=tmp_path / "run",
    )
    elbo = history.series("elbo", "valid")
    assert elbo[-1] > elbo[0]
    assert history.series("rate")[-1] < 4 * math.log(8)
    # the epoch's figures are those of all examples together: here by hand, with the weights of the
    # last epoch
    assert history.best_epoch == 4
    with torch.no_grad():
        qz = model.eval().posterior(binary_digits.examples("valid"), Context())
    shares = torch.bincount(qz.index.flatten(), minlength=8).double() / qz.index.numel()
    assert history.series("codes_perplexity", "valid")[-1] == pytest.approx(
        torch.special.entr(shares).sum().exp().item()
    )
    assert history.series("codes_used", "valid")[-1] == int((shares > 0).sum())
    assert history.series("commitment")[-1] > 0
    again = lb.load(tmp_path / "run")
    result = lb.evaluate(model, binary_digits, samples=3)
    assert lb.evaluate(again, binary_digits, samples=3) == result
    assert result.nll.value == pytest.approx(-result.elbo.value, rel=1e-5)
    assert torch.equal(again.sample(5, seed=0), model.sample(5, seed=0))
    assert bool(
        model.posterior.codebook().holds(model.encode(binary_digits.examples("test"))).all()
    )


@pytest.mark.filterwarnings("ignore:the model has parts from tests")
def test_a_run_that_was_stopped_and_resumed_is_the_run_that_was_not(
    binary_digits: Dataset, tmp_path: Path
) -> None:
    """The filling of dead codes from the batch included, at every other step here."""

    def train(out: Path, stop_at: int | None, resume: bool) -> lb.VAE:
        torch.manual_seed(0)
        model = vq_model(binary_digits, codes=30)
        lb.fit(
            model,
            Stopping(stop_at),
            binary_digits,
            epochs=2,
            out=out,
            resume=resume,
            progress=False,
        )
        return model

    whole = train(tmp_path / "whole", None, False)
    for stop_at in (1, 15):
        out = tmp_path / f"stopped-{stop_at}"
        with pytest.raises(KeyboardInterrupt):
            train(out, stop_at, False)
        resumed = train(out, None, True)
        assert torch.equal(weights(whole), weights(resumed))
        assert torch.equal(whole.posterior.vectors, resumed.posterior.vectors)
        assert (out / "model.safetensors").read_bytes() == (
            tmp_path / "whole" / "model.safetensors"
        ).read_bytes()


def test_what_makes_no_sense_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="codes is 0: a codebook needs at least 1"):
        VectorQuantised(X, (2,), codes=0)
    for setting in ({"decay": 1.0}, {"restart": -0.1}):
        with pytest.raises(ValueError, match="must be at least 0 and below 1"):
            # each of these is a number
            VectorQuantised(X, (2,), **setting)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="commitment is -1"):
        VectorQuantised(X, (2,), commitment=-1)


def test_the_half_precision_of_training_does_not_choose_other_codes() -> None:
    """Distances are differences of squares: under autocast they must not be rounded to 8 bits."""
    book = Codebook(10 + 0.01 * torch.randn(20, 8), (8,))
    z = 10 + 0.01 * torch.randn(100, 8)
    exact = book.find(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(book.find(z), exact)
