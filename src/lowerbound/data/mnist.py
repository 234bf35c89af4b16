"""MNIST: 70,000 handwritten digits of 28x28 8-bit pixels (LeCun, Cortes and Burges 1998)."""

from __future__ import annotations

from lowerbound.data.dataset import Stored
from lowerbound.data.fetch import read_idx_set

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
SHA256 = {
    "train-images-idx3": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}


def read() -> Stored:
    """All 70,000; the last 10,000 of the 60,000 for training serve as validation."""
    return read_idx_set(
        "mnist", SHA256, MIRRORS, "MNIST (LeCun, Cortes, Burges 1998)", "CC BY-SA 3.0"
    )
