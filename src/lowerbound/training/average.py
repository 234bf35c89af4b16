"""An exponential moving average of the weights, which is evaluated and saved in their place.

    a_t = d_t a_{t-1} + (1 - d_t) w_t,   d_t = min(decay, (1 + t) / (10 + t))

The noise of single steps averages out, as a falling learning rate does it at the end of a run
(Polyak and Juditsky 1992; Izmailov et al. 2018, arXiv 1803.05407). The decay grows from 0.18 at the
first step, so that the weights at the start, which are random, are soon forgotten. Buffers, such as
running means of batch normalisation, are those of the weights of the moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average of a model's trained parameters.

    Args:
        model: whose.
        decay: in (0, 1); 0.999 remembers the last 1,000 steps or so.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.zeros_(layer.weight)
        >>> average = WeightAverage(layer, decay=0.5)
        >>> for value in (1.0, 2.0):
        ...     _ = nn.init.constant_(layer.weight, value)
        ...     average.update(step=100)
        >>> with average.in_place():
        ...     print(layer.weight.item())
        1.25
        >>> layer.weight.item()
        2.0
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        self.values = {name: p.detach().clone() for name, p in self.parameters.items()}

    def begin(self) -> None:
        """Start from the weights as they are now."""
        for name, parameter in self.parameters.items():
            self.values[name].copy_(parameter.detach())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights of the moment in.

        Args:
            step: how many steps have been taken before this one.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.values.values()), list(self.parameters.values()), 1 - decay)

    @contextmanager
    @torch.no_grad()
    def in_place(self) -> Iterator[None]:
        """Let the model have the average for its weights in a block.

        Values are copied, not exchanged: a compiled step knows its parameters by their addresses.
        """
        raw = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._put(self.values)
        try:
            yield
        finally:
            self._put(raw)

    def restore(self, values: Mapping[str, Tensor]) -> None:
        """Go back to an average that was saved.

        Raises:
            ValueError: it is not that of these parameters.
        """
        shapes = {name: value.shape for name, value in values.items()}
        if shapes != {name: value.shape for name, value in self.values.items()}:
            raise ValueError("the average of the weights does not fit the model")
        for name, value in values.items():
            self.values[name].copy_(value)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])
