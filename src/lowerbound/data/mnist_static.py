"""Statically binarised MNIST: 70,000 digits of 28x28 binary pixels, drawn once (Larochelle and
Murray 2011).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lowerbound.data.dataset import Stored
from lowerbound.data.fetch import canonical_file, unzipped

MIRRORS = (
    "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
)  # the checksums protect
SHA256 = {  # of the text, whether it lies on disk as it is or gzipped
    "train": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "valid": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "test": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
}
PIXELS = 784


def read() -> Stored:
    """All 70,000 in the published split, 50,000/10,000/10,000; there are no labels."""
    parts = {}
    for name, checksum in SHA256.items():
        path = canonical_file(
            "mnist_static", f"binarized_mnist_{name}.amat", f"sha256:{checksum}", MIRRORS
        )
        parts[name] = pixels(unzipped(path), str(path))
    return Stored(
        x=np.concatenate(list(parts.values())),
        parts={name: len(x) for name, x in parts.items()},
        source="MNIST binarised once by Larochelle and Murray (2011), after Salakhutdinov and "
        "Murray (2008)",
    )


def pixels(text: bytes, where: str) -> NDArray[np.uint8]:
    r"""The pictures (n, 1, 28, 28) in an .amat text: a line each, 784 digits 0 or 1 with a blank
    between two.

    Every value and every separator is one byte, so the text is an array already, and nothing needs
    to be parsed.

    Args:
        text: the file's content.
        where: its name, for errors.

    Raises:
        ValueError: the text is of another form.

    Example:
        >>> pixels(b"0 " * 783 + b"1\n", "one line")[0, 0, -1, -2:].tolist()
        [0, 1]
    """
    row = np.frombuffer(b" " * (PIXELS - 1) + b"\n", np.uint8)
    if not text or len(text) % (2 * PIXELS):
        raise ValueError(
            f"{where} holds {len(text):,} bytes, which is not a whole number of lines of "
            f"{2 * PIXELS:,}"
        )
    table = np.frombuffer(text, np.uint8).reshape(-1, PIXELS, 2)
    x = table[..., 0] - ord("0")
    if x.max() > 1 or (table[..., 1] != row).any():  # a byte below "0" wraps round to far above 1
        raise ValueError(
            f"{where} is no text of {PIXELS} binary pixels a line, with one blank between two"
        )
    return x.reshape(-1, 1, 28, 28)
