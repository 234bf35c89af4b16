"""p(x|z) = prod_g p_g(x_g|z): each group g of entries of x, such as columns of a table, has a
likelihood of its own.

Columns of numbers, of counts, of yes and no and of classes lie on different sets, and one density
for all of them would be wrong of most. Given z the groups are independent, so their log-densities
add, whatever each is (Nazabal, Olmos, Ghahramani and Valera 2020, arXiv 1807.03653). Where some are
densities and others probabilities, so is the product: per unit of the columns on the real line, and
its value depends on their units.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from lowerbound import distributions
from lowerbound.compatibility import LOG_DENSITY
from lowerbound.roles import Context, Groups, Likelihood
from lowerbound.shapes import Shape, numel
from lowerbound.supports import Columns
from lowerbound.units import Standardizer, is_double


class Product(Likelihood):
    """Groups of columns, each with a likelihood and a network of its own.

    Its support is that of each column's likelihood: data are refused by the columns that do not
    fit. Missing entries are marginalised as each group's likelihood does.

    Args:
        z_shape: Z, the event shape of the latent.
        x_shape: X, the event shape of the data.
        groups: by name, which columns and what likelihood. On the command line and in files a group
            is its likelihood's configuration with columns, by name or by number from 0; a group
            that is named like a column needs none, and without any group they follow from where the
            columns lie.

    Raises:
        ValueError: no group, a column that is in none or in two, a name that is no word, or what a
            group's likelihood refuses.

    Example:
        >>> from functools import partial
        >>> from lowerbound.likelihoods import Bernoulli, Normal
        >>> from lowerbound.roles import Group
        >>> groups = {
        ...     "size": Group([0, 2], partial(Normal, scale="per_dimension")),
        ...     "sex": Group([1], Bernoulli),
        ... }
        >>> likelihood = Product((2,), (3,), groups)
        >>> px = likelihood(torch.zeros(7, 5, 2), Context())
        >>> likelihood.log_prob(px, torch.ones(5, 3), None).shape
        torch.Size([7, 5])
    """

    _is_density = True  # until the groups are known

    def __init__(self, z_shape: Shape, x_shape: Shape, groups: Groups) -> None:
        super().__init__(z_shape, x_shape)
        self.groups = groups
        _check(groups, numel(self.x_shape))
        self.parts = nn.ModuleDict()
        each: dict[int, Constraint] = {}
        for name, group in groups.items():
            part = group.likelihood(self.z_shape, (len(group.columns),))
            supports = (
                part.support.each
                if isinstance(part.support, Columns)
                else [part.support] * len(group.columns)
            )
            each |= dict(zip(group.columns, supports, strict=True))
            for module in part.modules():
                if isinstance(
                    module, Standardizer
                ):  # a product in a product has said already which of its own they are
                    inner = (
                        torch.arange(len(group.columns))
                        if module.entries is None
                        else module.entries
                    )
                    module.entries = torch.tensor(list(group.columns))[inner]
            # by itself a name might be one that a ModuleDict has, such as keys
            self.parts[f"{name}_group"] = part
        self.condition = next(
            (part.condition for part in self._likelihoods if part.condition is not None), None
        )
        self._is_density = all(part.is_density for part in self._likelihoods)
        if not self._is_density:
            self.capabilities = self.capabilities - {LOG_DENSITY}
        of_columns = [each[i] for i in sorted(each)]
        is_one = len(set(of_columns)) == 1
        self.support = of_columns[0] if is_one else Columns(of_columns, self.x_shape)

    @property
    # of the class in other likelihoods, and here of the groups
    def is_density(self) -> bool:  # type: ignore[override]
        """Whether every group's likelihood is one."""
        return self._is_density

    @property
    def _likelihoods(self) -> list[Likelihood]:
        return list(self.parts.values())  # type: ignore[arg-type]  # a ModuleDict says Module

    @property
    def _columns(self) -> list[Tensor]:
        return [torch.tensor(list(group.columns)) for group in self.groups.values()]

    @property
    def scaled_entries(self) -> Sequence[int]:
        pairs = zip(self._likelihoods, self.groups.values(), strict=True)
        return [group.columns[i] for part, group in pairs for i in part.scaled_entries]

    def prepare(self, x: Tensor) -> None:
        flat = x.reshape(len(x), -1)
        for part, columns in zip(self._likelihoods, self._columns, strict=True):
            part.prepare(flat[:, columns])

    def forward(self, z: Tensor, context: Context) -> Distribution:
        parts = [part(z, context) for part in self._likelihoods]
        return distributions.Product(list(zip(self._columns, parts, strict=True)), self.x_shape)

    def log_prob(self, px: Distribution, x: Tensor, mask: Tensor | None) -> Tensor:
        assert isinstance(px, distributions.Product)  # what forward gives
        values = px.entries(x)
        if x.dtype == torch.float64:  # which only those take that have units
            values = [_as_of(*pair) for pair in zip(self._likelihoods, values, strict=True)]
        known = [None] * len(values) if mask is None else px.entries(mask.broadcast_to(x.shape))
        each = zip(self._likelihoods, px.groups, values, known, strict=True)
        return torch.stack(
            [part.log_prob(of_group, value, seen) for part, (_, of_group), value, seen in each]
        ).sum(0)


def _as_of(part: Likelihood, value: Tensor) -> Tensor:
    """A value in the precision of a part's parameters, or as it is for one in units."""
    like = value if is_double(part) else next(part.parameters(), value)
    return value.to(like.dtype)


def _check(groups: Groups, n: int) -> None:
    """Refuse groups that do not share out the entries 0..n-1."""
    if not groups:
        raise ValueError(
            "a Product needs at least one group of columns: "
            "groups={'name': Group(columns, likelihood)}"
        )
    taken: dict[int, str] = {}
    for name, group in groups.items():
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ValueError(
                f"a group is called {name!r}: a name must be of letters, digits and underscores, "
                "and begin with no digit"
            )
        if not len(group.columns):
            raise ValueError(f"the group {name} has no columns")
        for column in group.columns:
            if isinstance(column, bool) or not isinstance(column, int) or not 0 <= column < n:
                raise ValueError(
                    f"the group {name} names the column {column!r}; there are the columns 0 to "
                    f"{n - 1}"
                )
            if column in taken:
                raise ValueError(
                    f"the column {column} is in the group {taken[column]} and in {name}; it can be "
                    "in one"
                )
            taken[column] = name
    if left := [i for i in range(n) if i not in taken]:
        some = ", ".join(map(str, left[:5])) + (", ..." if len(left) > 5 else "")
        raise ValueError(
            f"{len(left)} of the {n} columns are in no group ({some}); every column must be in one"
        )
