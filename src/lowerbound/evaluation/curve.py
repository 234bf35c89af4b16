"""The curve over K: what the importance-weighted bound is at K = 1, 10, 100, ... of the same draws.

How fast nll still falls from one K to the next says how much of its bias is left
(:func:`~lowerbound.evaluation.weights.remaining_bias`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from lowerbound.evaluation.estimate import Estimate
from lowerbound.evaluation.result import Point
from lowerbound.evaluation.weights import remaining_bias


def curve_sizes(samples: int) -> list[int]:
    """1, 10, 100, ... and K, without a power so near K that the step between them would be all
    noise.

    Example:
        >>> curve_sizes(5000), curve_sizes(101)
        ([1, 10, 100, 1000, 5000], [1, 10, 101])
    """
    powers = [10**i for i in range(len(str(samples)))]
    return [power for power in powers if power * 3 <= samples] + [samples]


def curve_points(nll: Mapping[int, Tensor]) -> tuple[Point, ...]:
    """The points of the curve.

    Args:
        nll: -L_K of each example, (n,), by K in rising order.
    """
    points: list[Point] = []
    for size, values in nll.items():
        if points:
            fall = Estimate.over(nll[points[-1].samples] - values)
            rest = _remaining_bias(points, size, fall)
            points.append(Point(size, Estimate.over(values), fall, rest))
        else:
            points.append(Point(size, Estimate.over(values)))
    return tuple(points)


def _remaining_bias(points: Sequence[Point], size: int, fall: Estimate) -> float:
    """What nll has still to fall after a fall from the last of the points to K = ``size``."""
    last = points[-1]
    if last.fall is None:
        # before the first fall nothing is known but the rate that well-behaved weights have, which
        # stands in for another fall
        earlier_fall, earlier_factor = math.inf, 10.0
    else:
        earlier_fall, earlier_factor = last.fall.value, last.samples / points[-2].samples
    return remaining_bias((earlier_fall, fall.value), (earlier_factor, size / last.samples))
