"""The 1,797 handwritten digits bundled with scikit-learn: real data that need no download."""

from __future__ import annotations

import numpy as np

from lowerbound.data.dataset import Stored


def read() -> Stored:
    """8x8 pictures with 17 grey levels, and their digit; no published split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return Stored(
        x=bunch.images.astype(np.uint8)[:, None],
        y=bunch.target,
        levels=17,
        source="scikit-learn's load_digits: the test part of UCI's optical digits (Alpaydin and "
        "Kaynak 1998)",
        licence="CC BY 4.0",
    )
