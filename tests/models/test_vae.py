from __future__ import annotations

import pytest
import torch
from torch import nn

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from tests.conftest import make_model


def test_encode_is_the_mean_and_deterministic(small_model: lb.VAE, binary_digits: Dataset) -> None:
    x = binary_digits.examples("test")
    assert torch.equal(small_model.encode(x), small_model.encode(x))
    assert torch.equal(small_model.encode(x), small_model(x).latents[0].q.mean)
    assert torch.allclose(
        small_model.encode(x)[3:4], small_model.encode(x[3:4]), atol=1e-6
    )  # in order, row by row


def test_reconstruct_is_decode_of_encode(small_model: lb.VAE, binary_digits: Dataset) -> None:
    x = binary_digits.examples("test")
    assert torch.equal(small_model.reconstruct(x), small_model.decode(small_model.encode(x)))


def test_sample_is_repeatable_by_seed_and_leaves_the_global_state_alone(
    small_model: lb.VAE,
) -> None:
    before = torch.get_rng_state()
    assert torch.equal(small_model.sample(9, seed=1), small_model.sample(9, seed=1))
    assert not torch.equal(small_model.sample(9, seed=1), small_model.sample(9, seed=2))
    assert torch.equal(before, torch.get_rng_state())


def test_sample_draws_x_and_not_its_mean_unless_asked(small_model: lb.VAE) -> None:
    x = small_model.sample(9, seed=1)
    assert bool(small_model.likelihood.support.check(x).all())
    mean = small_model.sample(9, seed=1, mean_of_x=True)
    assert not bool(small_model.likelihood.support.check(mean).all())


def test_verbs_take_other_precisions(small_model: lb.VAE) -> None:
    assert small_model.encode(torch.zeros(2, 1, 8, 8, dtype=torch.float64)).dtype == torch.float32


@pytest.mark.parametrize("x_shape", [(), (5,), (2, 3, 4)])
@pytest.mark.parametrize("z_shape", [(), (2,), (2, 3)])
def test_any_shapes(x_shape: tuple[int, ...], z_shape: tuple[int, ...]) -> None:
    model = lb.VAE(
        prior=lb.priors.StandardNormal(z_shape),
        posterior=lb.posteriors.DiagonalNormal(x_shape, z_shape),
        likelihood=lb.likelihoods.Normal(z_shape, x_shape),
    )
    x = torch.rand(5, *x_shape)
    draw = model(x, samples=3)
    assert draw.log_w.shape == (3, 5)
    assert draw.rate.shape == draw.distortion.shape == (5,)
    assert model.encode(x).shape == (5, *z_shape)
    assert model.sample(4).shape == (4, *x_shape)


def test_parts_of_different_shapes_are_refused() -> None:
    prior = lb.priors.StandardNormal((3,))
    posterior = lb.posteriors.DiagonalNormal((4,), (2,))
    with pytest.raises(
        ValueError, match=r"disagree on the shape of z: prior \(3,\), posterior \(2,\)"
    ):
        lb.VAE(prior, posterior, lb.likelihoods.Normal((2,), (4,)))
    with pytest.raises(
        ValueError, match=r"disagree on the shape of x: posterior \(4,\), likelihood \(5,\)"
    ):
        lb.VAE(lb.priors.StandardNormal((2,)), posterior, lb.likelihoods.Normal((2,), (5,)))


def test_a_part_in_the_wrong_role_is_refused() -> None:
    prior, posterior = lb.priors.StandardNormal((2,)), lb.posteriors.DiagonalNormal((4,), (2,))
    with pytest.raises(TypeError, match="likelihood=StandardNormal is not a Likelihood"):
        lb.VAE(prior, posterior, prior)
    with pytest.raises(TypeError, match="the class itself"):
        lb.VAE(lb.priors.StandardNormal, posterior, lb.likelihoods.Normal((2,), (4,)))
    with pytest.raises(TypeError, match="prior=Linear"):
        lb.VAE(nn.Linear(2, 2), posterior, lb.likelihoods.Normal((2,), (4,)))


@pytest.mark.parametrize("z_shape", [(0,), (2, 0), (-1,)])
def test_an_empty_latent_is_refused(z_shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="latent shape is .* at least 1"):
        lb.priors.StandardNormal(z_shape)


def test_no_samples_are_refused(small_model: lb.VAE) -> None:
    with pytest.raises(ValueError, match="samples is 0"):
        small_model(torch.zeros(2, 1, 8, 8), samples=0)
    with pytest.raises(ValueError, match="n is 0"):
        small_model.sample(0)


def test_it_can_be_compiled_in_one_graph(binary_digits: Dataset) -> None:
    model = make_model(binary_digits)
    x = binary_digits.examples("test")
    expected = model(x).rate  # also fills torch's memory of which formula serves the pair
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(x).rate, expected, atol=1e-5)
