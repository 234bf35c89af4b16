"""The product of independent distributions of groups of entries of one event: p(x) = prod_g
p_g(x_g).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint

from lowerbound.shapes import Shape
from lowerbound.supports import Columns


class Product(Distribution):
    """Groups of entries that are independent of each other, each with a distribution of its group.

    Args:
        groups: for each, the positions of its entries in the flattened event, and their
            distribution, with event (n_g,).
        event_shape: X.

    Example:
        >>> from torch.distributions import Bernoulli, Independent, Normal
        >>> one, other = (
        ...     Independent(Normal(torch.zeros(5, 2), 1.0), 1),
        ...     Independent(Bernoulli(torch.full((5, 1), 0.5)), 1),
        ... )
        >>> px = Product([(torch.tensor([0, 2]), one), (torch.tensor([1]), other)], (3,))
        >>> px.mean[0], px.log_prob(torch.zeros(5, 3)).shape
        (tensor([0.0000, 0.5000, 0.0000]), torch.Size([5]))
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    def __init__(self, groups: Sequence[tuple[Tensor, Distribution]], event_shape: Shape) -> None:
        self.groups = list(groups)
        super().__init__(groups[0][1].batch_shape, torch.Size(event_shape), validate_args=False)

    @property
    # a class attribute in torch, and here of the groups
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether every group has."""
        return all(group.has_rsample for _, group in self.groups)

    @property
    def support(self) -> Constraint:
        each: list[Constraint] = [constraints.real] * self.event_shape.numel()
        for columns, group in self.groups:
            of_entries: Any = group.support
            while isinstance(of_entries, type(constraints.independent(constraints.real, 1))):
                of_entries = of_entries.base_constraint
            for column in columns.tolist():
                each[column] = of_entries
        return Columns(each, self.event_shape)

    @property
    def mean(self) -> Tensor:
        return self._together([group.mean for _, group in self.groups])

    @property
    def variance(self) -> Tensor:
        return self._together([group.variance for _, group in self.groups])

    def entries(self, value: Tensor) -> list[Tensor]:
        """The entries of each group, (..., *X) -> each (..., n_g)."""
        flat = value.reshape(*value.shape[: value.ndim - len(self.event_shape)], -1)
        return [flat[..., columns.to(flat.device)] for columns, _ in self.groups]

    def log_prob(self, value: Tensor) -> Tensor:
        parts = zip(self.groups, self.entries(value), strict=True)
        return torch.stack([group.log_prob(entries) for (_, group), entries in parts]).sum(0)

    # torch says Size alone
    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        return self._drawn(lambda group: group.sample(torch.Size(sample_shape)))

    # torch says Size alone
    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        return self._drawn(lambda group: group.rsample(torch.Size(sample_shape)))

    def _drawn(self, draw: Callable[[Distribution], Tensor]) -> Tensor:
        return self._together([draw(group) for _, group in self.groups])

    def _together(self, values: Sequence[Tensor]) -> Tensor:
        """Each group's entries (..., n_g) at their places: (..., *X)."""
        order = torch.cat([columns for columns, _ in self.groups]).argsort().to(values[0].device)
        flat = torch.cat(list(values), -1)[..., order]
        return flat.reshape(*flat.shape[:-1], *self.event_shape)
