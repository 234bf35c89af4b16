"""Fashion-MNIST: 70,000 pictures of clothing of 28x28 8-bit pixels (Xiao, Rasul and Vollgraf 2017,
arXiv 1708.07747).
"""

from __future__ import annotations

from lowerbound.data.dataset import Stored
from lowerbound.data.fetch import read_idx_set

MIRRORS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)  # no https there; the checksum protects
SHA256 = {
    "train-images-idx3": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}


def read() -> Stored:
    """All 70,000; the last 10,000 of the 60,000 for training serve as validation."""
    return read_idx_set(
        "fashion_mnist",
        SHA256,
        MIRRORS,
        "Fashion-MNIST (Zalando; Xiao, Rasul, Vollgraf 2017)",
        "MIT",
    )
