"""Posterior collapse: q(z|x) is the prior for every x, so z tells nothing of x and the likelihood does without it.

KL(q(z|x) ‖ p(z)) bounds the mutual information of x and z from above (Hoffman and Johnson 2016), so a rate near zero is
enough to know it (Bowman et al. 2016, arXiv 1511.06349; Lucas, Tucker, Grosse and Norouzi 2019, arXiv 1911.02469).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

SETTLED = 200  # steps before which a small rate says that the model has not learned yet, and no more
COLLAPSED = 0.1  # nats: with less than a seventh of a bit, z cannot tell two halves of the data apart
REMEDIES = "train with a warm-up or free bits, a smaller beta, or a decoder that can do less without z"


def is_collapsed(rate: float | None) -> bool:
    """Whether a mean rate in nats is that of a collapsed posterior; a rate that is not known is none.

    Example:
        >>> is_collapsed(0.003), is_collapsed(25.0), is_collapsed(None)
        (True, False, False)
    """
    return rate is not None and rate < COLLAPSED


def warn_of_collapse(record: Mapping[str, Any], epochs: int) -> None:
    """Say so, once, when half of a run is over and z carries nothing: early on the rate often dips and comes back.

    Args:
        record: of the epoch that has ended, as in metrics.jsonl.
        epochs: how many there will be.
    """
    epoch, rate = record["epoch"], (record["valid"] or record["train"])["rate"]
    if epoch == math.ceil(epochs / 2) and record["step"] >= SETTLED and is_collapsed(rate):
        warnings.warn(
            f"posterior collapse: in epoch {epoch} of {epochs} the rate is {rate:.2g} nats, so z tells nothing of x; "
            f"{REMEDIES}",
            stacklevel=3,
        )
