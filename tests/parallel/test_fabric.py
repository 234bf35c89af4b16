"""A process by itself does without Fabric what it would do with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lowerbound.parallel.fabric import Alone, Precision, make_fabric
from lowerbound.parallel.processes import ALONE
from lowerbound.training.optimizers import Adam


def trained(fabric: Any, steps: int = 5) -> list[Tensor]:
    """The weights after steps through all that training uses of Fabric."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    module, stepping = fabric.setup(network, Adam(network.parameters(), lr=0.1, fused=True))
    x = fabric.to_device(torch.randn(20, 3))
    for _ in range(steps):
        stepping.zero_grad()
        for part in x.split(10):
            with fabric.no_backward_sync(module, False):
                fabric.backward(module(part).square().sum())
        fabric.strategy.precision.unscale_gradients(stepping.optimizer)
        stepping.optimizer.found_inf = torch.zeros(())
        stepping.step()
    return [p.detach() for p in module.parameters()]


def test_alone_gives_the_weights_that_fabric_gives() -> None:
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    pairs = zip(trained(Alone()), trained(fabric), strict=True)
    assert all(torch.equal(alone, by_fabric) for alone, by_fabric in pairs)
    assert not torch.equal(trained(Alone())[0], trained(Alone(), steps=4)[0])
    precision, of_fabric = Alone().strategy.precision, fabric.strategy.precision
    assert Alone().device == fabric.device
    assert precision.state_dict() == of_fabric.state_dict()
    x = torch.randn(3)
    assert precision.convert_input((x, {"y": x}))[1]["y"] is x
    with precision.forward_context():
        assert (x @ x).dtype == torch.float32


@pytest.mark.parametrize(("precision", "alone"), [("32-true", True), ("bf16-mixed", False)])
def test_fabric_is_there_for_what_has_to_be_converted(precision: Precision, alone: bool) -> None:
    assert isinstance(make_fabric("cpu", precision, ALONE), Alone) == alone
