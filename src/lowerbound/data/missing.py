"""Missing entries: a mask that says which are observed, and zero where they are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lowerbound.data.dataset import Stored
from lowerbound.data.mapped import MappedArray
from lowerbound.data.options import Missing

MARGINALISE = "missing='marginalise' (--data.missing marginalise) leaves them out of every density"


def observed(stored: Stored, where: str, missing: Missing) -> Stored:
    """The same with zero for what is missing, so that nothing depends on what stands there, and a
    mask that says where.

    Zero lies on every support, so that it takes part in no choice of one. A NaN is missing where
    the user says so.
    """
    if isinstance(stored.x, MappedArray):  # whose reader has seen to it that nothing is missing
        return stored
    x, mask = np.asarray(stored.x), stored.mask
    if mask is not None:
        if mask.shape != x.shape:
            raise ValueError(
                f"{where} has a mask of shape {mask.shape} for values of shape {x.shape}; it must "
                "be of one shape with them: True (1) for every entry that is observed, False (0) "
                "for every one that is missing"
            )
        if mask.dtype != bool and not (mask.dtype.kind in "uif" and np.isin(mask, (0, 1)).all()):
            raise ValueError(
                f"{where} has a mask of other values than 0 (missing) and 1 (observed)"
            )
        mask = mask.astype(bool)
    if missing == "marginalise" and x.dtype.kind == "f":
        is_number = ~np.isnan(x)
        mask = is_number if mask is None else mask & is_number
    if mask is None or mask.all():
        return stored if mask is None else replace(stored, mask=None)
    if not mask.any():
        raise ValueError(f"{where} holds no value that is observed")
    return replace(stored, x=np.where(mask, x, np.zeros((), x.dtype)), mask=mask)
