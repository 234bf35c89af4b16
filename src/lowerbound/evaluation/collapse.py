"""Posterior collapse: q(z|x) is the prior for every x, so z tells nothing of x and the likelihood
does without it.

KL(q(z|x) ‖ p(z)) bounds the mutual information of x and z from above (Hoffman and Johnson 2016), so
a rate near zero is enough to know it (Bowman et al. 2016, arXiv 1511.06349; Lucas, Tucker, Grosse
and Norouzi 2019, arXiv 1911.02469).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

# steps before which a small rate says that the model has not learned yet, and no more
SETTLED = 200
# nats: with less than a seventh of a bit, z cannot tell two halves of the data apart
COLLAPSED = 0.1
REMEDIES = (
    "train with a warm-up or free bits, a smaller beta, or a decoder that can do less without z"
)


def is_collapsed(rate: float | None) -> bool:
    """Whether a mean rate in nats is that of a collapsed posterior; a rate that is not known is
    none.

    Example:
        >>> is_collapsed(0.003), is_collapsed(25.0), is_collapsed(None)
        (True, False, False)
    """
    return rate is not None and rate < COLLAPSED


def warn_of_collapse(record: Mapping[str, Any], epochs: int) -> None:
    """Say so, once, when half of a run is over and z carries nothing: early on the rate often dips
    and comes back.

    Args:
        record: of the epoch that has ended, as in metrics.jsonl.
        epochs: how many there will be.
    """
    epoch, means = record["epoch"], record["valid"] or record["train"]
    if epoch != math.ceil(epochs / 2) or record["step"] < SETTLED:
        return
    rate, empty = means["rate"], collapsed_levels(means)
    if is_collapsed(rate):
        warnings.warn(
            f"posterior collapse: in epoch {epoch} of {epochs} the rate is {rate:.2g} nats, so z "
            f"tells nothing of x; {REMEDIES}",
            stacklevel=3,
        )
    elif empty:
        warnings.warn(
            f"posterior collapse of {len(empty)} latents: in epoch {epoch} of {epochs} the rate of "
            f"{', '.join(empty)} is below {COLLAPSED} nats, so that what is there tells nothing "
            f"that the others do not; {REMEDIES}",
            stacklevel=3,
        )


def collapsed_levels(means: Mapping[str, Any]) -> list[str]:
    """The latents of several that carry nothing, by the mean rates ``rate/1``, ``rate/2``, ... of
    each in nats.

    Example:
        >>> collapsed_levels({"rate": 20.0, "rate/1": 19.99, "rate/2": 0.01})
        ['z_2']
        >>> collapsed_levels({"rate": 2.2, "rate/y": 2.2, "rate/z": 0.01})
        ['z']
    """
    rates = {name: rate for name, rate in means.items() if name.startswith("rate/")}
    # bottom up, a lower level's may be negative, and is then not nothing
    empty = [
        name.removeprefix("rate/")
        for name, rate in rates.items()
        if rate is not None and is_collapsed(abs(rate))
    ]
    return [f"z_{name}" if name.isdigit() else name for name in empty]
