"""Lightning Fabric as training uses it: the device, the precision, and the processes that share a
batch.
"""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lowerbound.parallel.processes import Processes
from lowerbound.utils.devices import find_device

Precision = Literal["32-true", "bf16-mixed", "16-mixed", "64-true"]


class NoConversion:
    """Fabric's precision where everything is computed as it is, in float32."""

    def convert_input(self, data: Any) -> Any:
        """What the networks take."""
        return data

    def forward_context(self) -> AbstractContextManager[None]:
        """What the networks compute in."""
        return nullcontext()

    def unscale_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Nothing was scaled."""

    def state_dict(self) -> dict[str, Any]:
        """There is no scale to save."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nor one to restore."""


class Alone:
    """What training asks of Fabric, where nothing is to be done for it: one process, on a CPU, in
    float32.

    Importing Fabric brings torch's compiler with it, which takes as long as importing torch.
    """

    device = torch.device("cpu")
    strategy = SimpleNamespace(precision=NoConversion())

    def setup(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """The two as Fabric wraps them: it has the optimiser as ``optimizer``."""
        return module, SimpleNamespace(
            optimizer=optimizer, step=optimizer.step, zero_grad=optimizer.zero_grad
        )

    def backward(self, loss: Tensor) -> None:
        """Add its gradients to those of the parameters."""
        loss.backward()

    def no_backward_sync(self, module: nn.Module, enabled: bool) -> AbstractContextManager[None]:
        """There is nobody to wait for."""
        return nullcontext()

    def to_device(self, values: Tensor) -> Tensor:
        """They are there."""
        return values


def make_fabric(device: str, precision: Precision, world: Processes) -> Any:
    """A Fabric for this process, which has joined the others."""
    place = find_device(device)
    if place.type == "cpu" and precision == "32-true" and world.size == 1:
        return Alone()
    from lightning_fabric import Fabric  # 2 s, which only those should pay that need it
    from lightning_fabric.plugins.precision import MixedPrecision
    from lightning_fabric.plugins.precision import Precision as Whole
    from lightning_fabric.strategies.ddp import DDPStrategy

    class InputsAsTheyAre(MixedPrecision):
        """Half precision inside the networks only: data that are rounded before they are scored are
        other data.
        """

        def convert_input(self, data: Any) -> Any:
            return data

    class WholeInputsAsTheyAre(Whole):
        """float32 inside the networks: data in float64 need it until they are standardised."""

        def convert_input(self, data: Any) -> Any:
            return data

    settings: dict[str, Any] = {
        "accelerator": place.type,
        "devices": 1 if place.index is None else [place.index],
    }
    if precision in ("bf16-mixed", "16-mixed"):
        settings["plugins"] = InputsAsTheyAre(precision, place.type)
    elif precision == "32-true":
        settings["plugins"] = WholeInputsAsTheyAre()
    else:
        settings["precision"] = precision
    if world.size > 1:
        names = inspect.signature(DistributedDataParallel).parameters
        # every process has the same buffers, since what moves them is taken from the whole batch
        # its older name
        off = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        quiet: dict[str, Any] = {off: False}
        settings |= {"strategy": DDPStrategy(**quiet), "num_nodes": world.size // world.local_size}
        settings["devices"] = world.local_size
    fabric = Fabric(**settings)
    fabric.launch()
    return fabric
