"""The base measure of log p(x): what a likelihood is a density with respect to, entry by entry.

A probability of a class is a density with respect to the counting measure, a normal density with
respect to Lebesgue's. The logarithms of the two differ by the size of a unit, which is no property
of either model: of a yes or no, a normal whose scale shrinks gives any number of nats. So two
numbers compare where the base measures are the same on every entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lowerbound.roles import Likelihood
from lowerbound.supports import Columns

BaseMeasure = Literal["counting", "Lebesgue", "none"]


def base_measure(likelihood: Likelihood) -> tuple[BaseMeasure, ...]:
    """What each entry of x is counted or measured by: one word for all entries, or one for each.

    Example:
        >>> import lowerbound as lb
        >>> base_measure(lb.likelihoods.Normal((2,), (3,)))
        ('Lebesgue',)
        >>> base_measure(lb.likelihoods.BinaryCrossEntropy((2,), (3,)))
        ('none',)
    """
    if not likelihood.is_density:
        return ("none",)
    support = likelihood.support
    each = support.each if isinstance(support, Columns) else (support,)
    words: tuple[BaseMeasure, ...] = tuple(
        "counting" if kind.is_discrete else "Lebesgue" for kind in each
    )
    return words[:1] if len(set(words)) == 1 else words


def differing(first: Sequence[BaseMeasure], second: Sequence[BaseMeasure]) -> list[int] | None:
    """The numbers of the entries whose base measures differ; None where all do.

    Example:
        >>> differing(("counting", "Lebesgue"), ("Lebesgue",)), differing(("none",), ("counting",))
        ([0], None)
    """
    n = max(len(first), len(second))
    spread = [each if len(each) == n else tuple(each) * n for each in (first, second)]
    pairs = zip(*spread, strict=True)
    numbers = [i for i, (one, other) in enumerate(pairs) if one != other]
    return None if len(numbers) == n else numbers
