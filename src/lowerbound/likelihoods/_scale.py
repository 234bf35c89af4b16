"""The spread of each entry of x, on a log-scale: fixed, shared, one per dimension, or from the
network.

    log s_d = log of the number                 a number
    log s_d = log start_d + pace * a            "shared"
    log s_d = log start_d + pace * a_d          "per_dimension"
    log s_d = log start_d + g_d(z)              "network"

The start comes from the data, so that training begins at their own scale. The pace is there because
Adam moves every parameter by about the learning rate in a step. Weights have hundredths to go, and
a log-scale has some nats: learned as it is, at a learning rate of 1e-3 it would take thousands of
steps.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from lowerbound.shapes import Shape

Spread: TypeAlias = float | Literal["shared", "per_dimension", "network"]


class LearnedScale(nn.Module):
    """The log-scale of a likelihood's entries.

    A likelihood asks its network for ``out_shape``, and calls this module with what the network
    gives.

    Args:
        setting: a number fixes the scale; "shared" learns one, "per_dimension" one for each entry
            of x; "network" takes that of each entry from the network.
        x_shape: X, the event shape of the data.
        pace: nats that the log-scale moves when the parameter moves by one.
        name: of the setting, for messages.
        numbers: which numbers are allowed, for messages.
        log_of_zero: what stands for the logarithm of 0, nats, where 0 is allowed.

    Raises:
        ValueError: a number that is not allowed, or another word.

    Example:
        >>> scale = LearnedScale("network", (3,), pace=10.0)
        >>> scale.out_shape
        (2, 3)
        >>> loc, log_scale = scale(torch.zeros(7, 5, 2, 3), start=torch.tensor([1.0, 2.0, 3.0]))
        >>> loc.shape, log_scale[0, 0]
        (torch.Size([7, 5, 3]), tensor([1., 2., 3.]))
        >>> LearnedScale(0.5, (3,), pace=10.0).log_scale(torch.zeros(3)).exp()
        tensor(0.5000)
    """

    def __init__(
        self,
        setting: Spread,
        x_shape: Shape,
        pace: float,
        name: str = "scale",
        numbers: str = "a positive number",
        log_of_zero: float | None = None,
    ) -> None:
        super().__init__()
        self.is_fixed = not isinstance(setting, str)
        if isinstance(setting, str):
            is_known = setting in ("shared", "per_dimension", "network")
        else:  # a file may hold anything
            is_number = isinstance(setting, (int, float)) and 0 <= setting < math.inf
            is_known = is_number and (setting > 0 or log_of_zero is not None)
        if not is_known:
            raise ValueError(
                f"{name} is {setting!r}: it must be {numbers}, or 'shared', 'per_dimension' or "
                "'network' to learn it"
            )
        self.pace = pace
        self.from_network = setting == "network"
        self.x_shape = x_shape
        self.out_shape: Shape = (2, *x_shape) if self.from_network else x_shape
        if self.from_network:
            return
        log_scale = 0.0
        if not isinstance(setting, str):
            log_scale = math.log(setting) if setting else float(log_of_zero or 0.0)
        slow = torch.tensor(log_scale / pace)
        slow = slow.expand(x_shape if setting == "per_dimension" else ()).clone()
        self.slow = nn.Parameter(slow, requires_grad=not self.is_fixed)

    def log_scale(self, start: Tensor) -> Tensor:
        """The logarithm of a scale that does not come from the network, () or X, nats.

        Args:
            start: log-scale at which learning starts, () or X; a fixed scale does not need it.
        """
        return self.pace * self.slow if self.is_fixed else self.pace * self.slow + start

    def forward(self, out: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """What the network says of the location, (..., *X), and the log-scale, broadcastable to it.

        Args:
            out: what the network gives, (..., *out_shape).
            start: log-scale at which learning starts, () or X.
        """
        if not self.from_network:
            return out, self.log_scale(start)
        loc, relative = out.unbind(-len(self.x_shape) - 1)
        return loc, relative + start
