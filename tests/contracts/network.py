"""A network: from any shape to any shape, each example by itself."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable

import pytest
import torch
from torch import nn

from lowerbound.shapes import Shape, numel
from tests.contracts.checks import (
    SHAPES,
    all_parameters_get_gradients,
)


class NetworkContract(ABC):
    make: Callable[[Shape, Shape], nn.Module]

    @pytest.mark.parametrize("in_shape", SHAPES)
    @pytest.mark.parametrize("out_shape", SHAPES)
    def test_maps_in_shape_to_out_shape(self, in_shape: Shape, out_shape: Shape) -> None:
        network = self.make(in_shape, out_shape)
        out = network(torch.rand(5, *in_shape))
        assert out.shape == (5, *out_shape)
        out.sum().backward()
        all_parameters_get_gradients(network)

    def test_treats_examples_separately(self) -> None:
        network = self.make((3,), (2,)).eval()
        x = torch.rand(5, 3)
        assert torch.allclose(network(x)[2:3], network(x[2:3]), atol=1e-6)

    def test_has_as_many_outputs_as_asked_for(self) -> None:
        assert numel(tuple(self.make((3,), (4, 5))(torch.rand(1, 3)).shape)) == 20
