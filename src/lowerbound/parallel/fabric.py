"""Lightning Fabric as training uses it: the device, the precision, and the processes that share a
batch.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal

from torch.nn.parallel import DistributedDataParallel

from lowerbound.parallel.processes import Processes
from lowerbound.utils.devices import find_device

Precision = Literal["32-true", "bf16-mixed", "16-mixed", "64-true"]


def make_fabric(device: str, precision: Precision, world: Processes) -> Any:
    """A Fabric for this process, which has joined the others."""
    from lightning_fabric import Fabric  # 1.5 s, which only training should pay
    from lightning_fabric.plugins.precision import MixedPrecision
    from lightning_fabric.strategies.ddp import DDPStrategy

    class InputsAsTheyAre(MixedPrecision):
        """Half precision inside the networks only: data that are rounded before they are scored are
        other data.
        """

        def convert_input(self, data: Any) -> Any:
            return data

    place = find_device(device)
    how: dict[str, Any] = {
        "accelerator": place.type,
        "devices": 1 if place.index is None else [place.index],
    }
    if precision in ("bf16-mixed", "16-mixed"):
        how["plugins"] = InputsAsTheyAre(precision, place.type)
    else:
        how["precision"] = precision
    if world.size > 1:
        words = inspect.signature(DistributedDataParallel).parameters
        # every process has the same buffers, since what moves them is taken from the whole batch
        off = (
            "forward_sync_buffers" if "forward_sync_buffers" in words else "broadcast_buffers"
        )  # its older name
        quiet: dict[str, Any] = {off: False}
        how |= {"strategy": DDPStrategy(**quiet), "num_nodes": world.size // world.local_size}
        how["devices"] = world.local_size
    fabric = Fabric(**how)
    fabric.launch()
    return fabric
