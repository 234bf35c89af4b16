"""Supports: the set in which data lie, and the set on which a likelihood is a density.

A likelihood p(x|z) is a log-likelihood of the data only where its support contains the data's.
torch describes supports by ``torch.distributions.constraints``; this module adds the grid of grey
levels and the question torch leaves out: does one set contain another?

Grey pictures with L levels are kept on the unit scale, {0, 1/(L-1), ..., 1}: the same x then serves
a categorical likelihood over the L levels, a normal density on the real line and, when L = 2, a
Bernoulli.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint


class Levels(Constraint):
    """The L equally spaced values {0, 1/(L-1), ..., 1}.

    Args:
        count: L, at least 2; 256 for 8-bit pixels, 17 for the bundled digits, 2 for binary data.

    Example:
        >>> import torch
        >>> Levels(3).check(torch.tensor([0.0, 0.5, 0.7]))
        tensor([ True,  True, False])
    """

    is_discrete = True

    def __init__(self, count: int) -> None:
        if count < 2:
            raise ValueError(f"levels is {count}: at least 2 are needed")
        self.count = count
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        steps = value * (self.count - 1)
        nearest = steps.round()
        # float32 holds i/(L-1) to about 1e-7 relative, so 1e-3 of a step, or more where there are
        # 65,536 of them, separates rounding from a value off the grid
        tolerance = max(1e-3, 2e-7 * self.count)
        return ((steps - nearest).abs() < tolerance) & (nearest >= 0) & (nearest <= self.count - 1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Levels) and other.count == self.count

    def __hash__(self) -> int:
        return hash((Levels, self.count))


class Columns(Constraint):
    """Events whose entries, or columns, lie on different sets: the product of those sets.

    Args:
        each: the set of each entry, in the order of the flattened event.
        shape: of the event; (d,), a row of a table, by default.

    Example:
        >>> import torch
        >>> Columns((Levels(2), REAL)).check(torch.tensor([[1.0, 0.3], [0.3, 0.3]]))
        tensor([[ True,  True],
                [False,  True]])
    """

    def __init__(self, each: Sequence[Constraint], shape: Sequence[int] | None = None) -> None:
        self.each = tuple(each)
        self.shape = (len(self.each),) if shape is None else tuple(shape)
        super().__init__()

    @property
    # a class attribute in torch, and here of the columns
    def is_discrete(self) -> bool:  # type: ignore[override]
        """Whether every column is."""
        return all(support.is_discrete for support in self.each)

    def check(self, value: Tensor) -> Tensor:
        entries = value.reshape(*value.shape[: value.ndim - len(self.shape)], -1).unbind(-1)
        inside = [support.check(entry) for support, entry in zip(self.each, entries, strict=True)]
        return torch.stack(inside, -1).reshape(value.shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Columns) and other.each == self.each

    def __hash__(self) -> int:
        return hash((Columns, self.each))


BINARY = Levels(2)
UNIT = constraints.unit_interval
REAL = constraints.real
INTEGER = constraints.integer_interval(-(2**53), 2**53)
COUNTS = constraints.nonnegative_integer


def describe(support: Constraint) -> str:
    """The set in words, for messages and cards.

    Example:
        >>> describe(Levels(256)), describe(BINARY), describe(REAL)
        ('the 256 levels {0, 1/255, ..., 1}', '{0, 1}', 'the real line')
    """
    if isinstance(support, Levels):
        return (
            "{0, 1}"
            if support.count == 2
            else f"the {support.count} levels {{0, 1/{support.count - 1}, ..., 1}}"
        )
    if support is REAL:
        return "the real line"
    if support is UNIT:
        return "the interval [0, 1]"
    if support is INTEGER:
        return "the integers"
    if support is COUNTS:
        return "the counts {0, 1, 2, ...}"
    if isinstance(support, Columns):
        kinds = list(dict.fromkeys(map(describe, support.each)))
        numbers = [sum(describe(column) == kind for column in support.each) for kind in kinds]
        return ", ".join(
            f"{n} column{'s' * (n > 1)} on {kind}" for n, kind in zip(numbers, kinds, strict=True)
        )
    return str(support)


def contains(outer: Constraint, inner: Constraint) -> bool:
    """Whether ``outer`` contains every point of ``inner``; False where that is not known.

    Example:
        >>> contains(UNIT, Levels(17)), contains(BINARY, Levels(17)), contains(Levels(17), BINARY)
        (True, False, True)
        >>> (
        ...     contains(Columns((BINARY, REAL)), Columns((BINARY, COUNTS))),
        ...     contains(COUNTS, Columns((BINARY, REAL))),
        ... )
        (True, False)
    """
    if outer is REAL or outer == inner:
        return True
    if isinstance(outer, Columns) and isinstance(inner, Columns):
        return len(outer.each) == len(inner.each) and all(map(contains, outer.each, inner.each))
    if isinstance(outer, Columns):
        return all(contains(column, inner) for column in outer.each)
    if isinstance(inner, Columns):
        return all(contains(outer, column) for column in inner.each)
    if isinstance(inner, Levels):
        if isinstance(outer, Levels):
            return (outer.count - 1) % (inner.count - 1) == 0
        return outer is UNIT or (inner == BINARY and (outer is INTEGER or outer is COUNTS))
    return outer is INTEGER and inner is COUNTS


def smallest(values: Tensor) -> Constraint:
    """The smallest of {0, 1}, the unit interval, the counts and the real line that holds all
    values.

    Example:
        >>> import torch
        >>> (
        ...     describe(smallest(torch.tensor([0.0, 1.0]))),
        ...     describe(smallest(torch.tensor([0.0, 0.3]))),
        ... )
        ('{0, 1}', 'the interval [0, 1]')
        >>> (
        ...     describe(smallest(torch.tensor([0.0, 3.0]))),
        ...     describe(smallest(torch.tensor([-1.0, 3.0]))),
        ... )
        ('the counts {0, 1, 2, ...}', 'the real line')
    """
    if bool(((values == 0) | (values == 1)).all()):
        return BINARY
    if bool(((values >= 0) & (values <= 1)).all()):
        return UNIT
    # from 2^24 on float32 holds nothing but integers, so that being one says nothing
    counts = (values >= 0) & (values < 2**24) & (values == values.round())
    return COUNTS if bool(counts.all()) else REAL


def union(supports: Sequence[Constraint]) -> Constraint:
    """The smallest known set that holds all of several.

    Example:
        >>> describe(union([BINARY, COUNTS])), describe(union([UNIT, COUNTS]))
        ('the counts {0, 1, 2, ...}', 'the real line')
    """
    known = [*supports, UNIT, COUNTS, INTEGER]
    fitting = (outer for outer in known if all(contains(outer, inner) for inner in supports))
    return next(fitting, REAL)
