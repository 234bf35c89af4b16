"""The fully convolutional network: from picture to picture, each place from its neighbourhood."""

from __future__ import annotations

import pytest
import torch

import lowerbound as lb
from lowerbound.shapes import Shape
from tests.contracts import all_parameters_get_gradients

FullyConv = lb.networks.FullyConv


@pytest.mark.parametrize(
    ("large", "small"),
    [
        ((1, 28, 28), (64, 7, 7)),
        ((3, 32, 32), (16, 8, 8)),
        ((2, 5, 9), (3, 5, 9)),
        ((1, 37, 53), (2, 8, 10, 14)),
        ((8, 8), (4, 1, 1)),
        ((1, 6, 1), (2, 3, 1)),
    ],
)
@pytest.mark.parametrize("way", ["down", "up"])
def test_it_maps_pictures_to_pictures(large: Shape, small: Shape, way: str) -> None:
    in_shape, out_shape = (large, small) if way == "down" else (small, large)
    network = FullyConv(in_shape, out_shape, width=4, blocks=1)
    out = network(torch.rand(3, *in_shape))
    assert out.shape == (3, *out_shape)
    out.sum().backward()
    all_parameters_get_gradients(network)


@pytest.mark.parametrize(
    ("in_shape", "out_shape"), [((1, 64, 64), (2, 16, 16)), ((2, 16, 16), (1, 64, 64))]
)
def test_a_place_knows_its_neighbourhood_alone(in_shape: Shape, out_shape: Shape) -> None:
    network = FullyConv(in_shape, out_shape, width=4, blocks=1)
    x = torch.rand(1, *in_shape, requires_grad=True)
    for block in network.modules():  # the second convolution of a block starts at zero
        if isinstance(block, torch.nn.Conv2d):
            torch.nn.init.normal_(block.weight)
    (gradient,) = torch.autograd.grad(network(x)[0, :, 0, 0].sum(), x)
    assert bool((gradient[0, :, 0, 0] != 0).any())
    assert bool((gradient[..., in_shape[1] // 2 :, :] == 0).all())


def test_treats_examples_separately() -> None:
    network = FullyConv((1, 8, 8), (3, 2, 2), width=4).eval()
    x = torch.rand(5, 1, 8, 8)
    assert torch.allclose(network(x)[2:3], network(x[2:3]), atol=1e-6)


def test_what_is_no_picture_or_not_halved_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"maps a picture .* to a picture, not \(1, 28, 28\) to \(16,\); use Conv"
    ):
        FullyConv((1, 28, 28), (16,))
    with pytest.raises(
        ValueError,
        match="28 x 28 is halved to 14 x 14, 7 x 7, 4 x 4, 2 x 2, 1 x 1, and not to 8 x 8",
    ):
        FullyConv((1, 28, 28), (16, 8, 8))
    with pytest.raises(ValueError, match="blocks is 0"):
        FullyConv((1, 28, 28), (16, 7, 7), blocks=0)
