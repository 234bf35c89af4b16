from functools import partial

import pytest
import torch
from torch import nn

import lowerbound as lb
from lowerbound.networks.mlp import Tanh
from tests.contracts import NetworkContract, all_parameters_get_gradients


class TestMLP(NetworkContract):
    make = staticmethod(lb.networks.MLP)

    def test_without_hidden_layers_it_is_linear(self) -> None:
        network = lb.networks.MLP((3,), (2,), hidden=())
        x = torch.rand(5, 3)
        assert torch.allclose(network(2 * x) - network(x), network(x) - network(0 * x), atol=1e-6)

    def test_a_gated_unit_is_a_linear_map_times_the_sigmoid_of_another(self) -> None:
        network, x = lb.networks.MLP((3,), (2,), hidden=(5,), activation="GLU"), torch.randn(7, 3)
        linear, gate, last = (layer for layer in network.modules() if isinstance(layer, nn.Linear))
        assert torch.allclose(network(x), last(linear(x) * gate(x).sigmoid()), atol=1e-6)
        network(x).sum().backward()
        all_parameters_get_gradients(network)

    @pytest.mark.parametrize("hidden", [(0,), (-3,), (8, 0)])
    def test_refuses_empty_layers(self, hidden: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            lb.networks.MLP((3,), (2,), hidden=hidden)

    def test_refuses_an_unknown_activation(self) -> None:
        with pytest.raises(ValueError, match="there is ReLU"):
            lb.networks.MLP((3,), (2,), activation="relu6")


def test_batch_normalisation_standardises_hidden_units_and_then_remembers() -> None:
    network = lb.networks.MLP((3,), (2,), hidden=(8, 5), batch_norm=True)
    seen: list[torch.Tensor] = []
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.register_forward_hook(lambda module, inputs, out: seen.append(out))
    x = 100 + 3 * torch.randn(64, 3)
    network(x).sum().backward()
    all_parameters_get_gradients(network)
    assert [tuple(out.shape) for out in seen] == [(64, 8), (64, 5)]
    for out in seen:
        assert torch.allclose(out.mean(0), torch.zeros(out.shape[1]), atol=1e-4)
        assert torch.allclose(out.var(0, correction=0), torch.ones(out.shape[1]), atol=0.05)
    network.eval()
    assert torch.allclose(network(x)[2:3], network(x[2:3]), atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 16])
def test_a_last_batch_of_one_is_refused_before_training(batch_size: int) -> None:
    normalised = partial(lb.networks.MLP, batch_norm=True)
    model = lb.VAE(
        lb.priors.StandardNormal((2,)),
        lb.posteriors.DiagonalNormal((4,), (2,), network=normalised),
        lb.likelihoods.Bernoulli((2,), (4,)),
    )
    data = lb.data.from_arrays(torch.rand(41, 4).round().numpy())
    with pytest.raises(
        ValueError, match=f"33 examples in batches of {batch_size} leave one by itself"
    ):
        lb.fit(model, lb.objectives.ELBO(), data, epochs=1, batch_size=batch_size, progress=False)
    assert (
        lb.fit(model, lb.objectives.ELBO(), data, epochs=1, batch_size=11, progress=False).epochs[
            0
        ]["step"]
        == 3
    )
    with pytest.raises(ValueError, match="this batch holds one"):
        model.train()(torch.ones(1, 4))
    assert model.eval()(torch.ones(1, 4)).log_w.shape == (1, 1)


def test_a_tanh_is_the_same_up_to_rounding_whether_gradients_are_kept_or_not() -> None:
    network = lb.networks.MLP((3,), (50,), hidden=(20, 20), activation="Tanh")
    x = 10 * torch.randn(1000, 3)
    with torch.no_grad():
        assert torch.allclose(network(x), network.double()(x.double()).float(), atol=1e-5)
        each = torch.linspace(-20, 20, 100_001)
        assert (Tanh()(each).double() - each.double().tanh()).abs().max() < 3e-7
        assert torch.equal(Tanh()(each.double()), each.double().tanh())
        half = each.bfloat16()
        assert Tanh()(half).dtype == torch.bfloat16
        assert torch.allclose(Tanh()(half).double(), half.double().tanh(), rtol=2**-8, atol=3e-7)
    assert torch.equal(Tanh()(each), Tanh()(each.clone().requires_grad_()))


@pytest.mark.parametrize(
    "n", [1_000, 100_000]
)  # below and above the size from which it is worth while
def test_a_tanh_has_its_gradient(n: int) -> None:
    x = torch.linspace(-12, 12, n, requires_grad=True)
    weight = torch.linspace(-1, 2, n)
    (gradient,) = torch.autograd.grad((weight * Tanh()(x)).sum(), x)
    assert torch.allclose(
        gradient, weight * (1 - x.detach().double().tanh().square()).float(), atol=2e-6
    )
