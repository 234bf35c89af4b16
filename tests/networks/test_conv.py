"""Convolutional and residual networks: any picture, exactly."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import lowerbound as lb
from lowerbound.networks._strided import plan
from lowerbound.shapes import Shape, numel
from tests.contracts import all_parameters_get_gradients

PICTURES: list[Shape] = [
    (1, 28, 28),
    (3, 32, 32),
    (1, 64, 64),
    (5, 37, 53),
    (3, 100, 60),
    (1, 218, 178),
    (8, 8),
    (1, 4, 5),
    (1, 1, 9),
    (3, 2, 2),
]
NETWORKS = [partial(lb.networks.Conv, width=4), partial(lb.networks.ResNet, width=4)]


@pytest.mark.parametrize("picture", PICTURES, ids=str)
@pytest.mark.parametrize("network", NETWORKS, ids=["Conv", "ResNet"])
@pytest.mark.parametrize("vector", [(), (16,), (2, 16), (2, 3, 1, 1)], ids=str)
def test_any_picture_to_any_vector_and_back(
    network: partial[nn.Module], picture: Shape, vector: Shape
) -> None:
    for in_shape, out_shape in ((picture, vector), (vector, picture)):
        module = network(in_shape, out_shape)
        out = module(torch.rand(2, *in_shape))
        assert out.shape == (2, *out_shape)
        out.sum().backward()
        all_parameters_get_gradients(module)


@pytest.mark.parametrize("network", NETWORKS, ids=["Conv", "ResNet"])
def test_further_leading_sizes_are_channels(network: partial[nn.Module]) -> None:
    """Mean and log-scale of each pixel, or a logit of each level."""
    assert network((16,), (17, 1, 8, 8))(torch.rand(2, 16)).shape == (2, 17, 1, 8, 8)


@pytest.mark.parametrize("network", NETWORKS, ids=["Conv", "ResNet"])
def test_moving_the_picture_moves_what_the_first_layers_see(network: partial[nn.Module]) -> None:
    """A shift by two pixels is a shift by one after a halving: convolutions, and not a dense layer,
    look at the picture.
    """
    layers = network((1, 32, 32), (4,)).layers[:3]
    x = torch.zeros(1, 1, 32, 32)
    x[..., 12:16, 12:16] = torch.rand(4, 4)
    moved = layers(x.roll((2, 2), (2, 3)).flatten(1))
    assert torch.allclose(
        layers(x.flatten(1)).roll((1, 1), (2, 3))[..., 4:12, 4:12],
        moved[..., 4:12, 4:12],
        atol=1e-5,
    )


def test_the_depth_follows_from_the_size() -> None:
    depths = {
        size: len(plan((1, *size), (2, 16)).sizes) - 1
        for size in ((8, 8), (28, 28), (32, 32), (64, 64), (218, 178))
    }
    assert depths == {(8, 8): 1, (28, 28): 2, (32, 32): 3, (64, 64): 4, (218, 178): 5}
    assert len(plan((1, 64, 64), (2, 16), depth=2).sizes) == 3


@pytest.mark.parametrize(
    ("in_shape", "out_shape", "settings", "message"),
    [
        ((784,), (2, 16), {"depth": -1}, "halved at least once"),
        ((784,), (16,), {}, "use MLP"),
        ((1, 1, 1), (16,), {}, "use MLP"),
        ((1, 8, 8), (16,), {"depth": 9}, "can be halved 3 times only"),
        ((1, 8, 8), (16,), {"depth": 0}, "halved at least once"),
        ((1, 8, 8), (16,), {"width": 0}, "at least 1 channel"),
    ],
)
def test_refusals(
    in_shape: Shape, out_shape: Shape, settings: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        lb.networks.Conv(in_shape, out_shape, **settings)


def test_a_residual_block_starts_as_the_identity() -> None:
    network = lb.networks.ResNet((1, 8, 8), (4,), width=4, blocks=3)
    x = torch.rand(2, 4, 4, 4)
    for layer in network.layers[2:5]:
        assert torch.allclose(layer(x), x, atol=0.2)  # but for the second convolution's bias
    with pytest.raises(ValueError, match="blocks is 0"):
        lb.networks.ResNet((1, 8, 8), (4,), blocks=0)


@pytest.mark.parametrize("network", [lb.networks.Conv, lb.networks.ResNet])
def test_in_a_model_of_every_likelihood(network: type[nn.Module]) -> None:
    x = torch.randint(0, 3, (4, 3, 9, 12)) / 2
    for name, settings in (
        ("Normal", {}),
        ("Normal", {"scale": "network"}),
        ("Categorical", {"levels": 3}),
    ):
        likelihood = getattr(lb.likelihoods, name)(
            (5,), (3, 9, 12), network=partial(network, width=4), **settings
        )
        posterior = lb.posteriors.FullNormal((3, 9, 12), (5,), network=partial(network, width=4))
        model = lb.VAE(lb.priors.Normal((5,), covariance="full"), posterior, likelihood)
        draw = model(x, samples=2)
        assert draw.log_w.shape == (2, 4)
        assert draw.has_closed_form_rate
        assert numel(tuple(model.decode(model.encode(x)).shape)) == x.numel()
