import pytest
import torch

import lowerbound as lb
from tests.contracts import NetworkContract


class TestMLP(NetworkContract):
    make = staticmethod(lb.networks.MLP)

    def test_without_hidden_layers_it_is_linear(self) -> None:
        network = lb.networks.MLP((3,), (2,), hidden=())
        x = torch.rand(5, 3)
        assert torch.allclose(network(2 * x) - network(x), network(x) - network(0 * x), atol=1e-6)

    @pytest.mark.parametrize("hidden", [(0,), (-3,), (8, 0)])
    def test_refuses_empty_layers(self, hidden: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            lb.networks.MLP((3,), (2,), hidden=hidden)

    def test_refuses_an_unknown_activation(self) -> None:
        with pytest.raises(ValueError, match="there is ReLU"):
            lb.networks.MLP((3,), (2,), activation="relu6")
