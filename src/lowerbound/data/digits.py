"""The 1,797 handwritten digits bundled with scikit-learn: real data that need no download."""

from __future__ import annotations

from importlib.metadata import distribution

import numpy as np

from lowerbound.data.dataset import Stored

FILE = "sklearn/datasets/data/digits.csv.gz"


def read() -> Stored:
    """8x8 pictures with 17 grey levels, and their digit; no published split.

    The file is read without its package: importing scikit-learn, and scipy with it, takes as long
    as importing torch.
    """
    path = distribution("scikit-learn").locate_file(FILE)
    rows = np.loadtxt(str(path), delimiter=",")  # 64 pixels, then the digit
    return Stored(
        x=rows[:, :-1].astype(np.uint8).reshape(-1, 1, 8, 8),
        y=rows[:, -1].astype(int),
        levels=17,
        source="scikit-learn's load_digits: the test part of UCI's optical digits (Alpaydin and "
        "Kaynak 1998)",
        licence="CC BY 4.0",
    )
