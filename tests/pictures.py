"""Real colour pictures for tests: the sheets in LOWERBOUND_DATA/cifar10, 11,000 of CIFAR-10's
pictures in its order.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

TILE, ROWS, COLUMNS = 32, 20, 50


def colour_pictures(
    data: Path, split: Literal["train", "test"] = "train"
) -> tuple[np.ndarray, np.ndarray]:
    """The first 10,000 training or 1,000 test pictures.

    Args:
        data: the folder that LOWERBOUND_DATA names.
        split: which.

    Returns:
        x uint8 (n, 3, 32, 32), y int64 (n,).
    """
    folder = data / "cifar10"
    sheets = (
        sorted(folder.glob("train_*.webp"))
        if split == "train"
        else [folder / "test_first1000.webp"]
    )
    x = np.concatenate([_tiles(sheet) for sheet in sheets])
    with np.load(folder / "labels.npz") as labels:
        y = labels["train" if split == "train" else "test_first1000"][: len(x)].astype(np.int64)
    return x, y


def _tiles(sheet: Path) -> np.ndarray:
    with Image.open(sheet) as image:
        pixels = np.asarray(image.convert("RGB"))
    tiles = pixels.reshape(ROWS, TILE, COLUMNS, TILE, 3)
    return tiles.transpose(0, 2, 4, 1, 3).reshape(-1, 3, TILE, TILE)


def cifar10_archive(
    path: Path, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]
) -> Path:
    """Write pictures as CIFAR-10's binary archive: five batches of training records, one of test
    records.
    """
    parts = zip(*(np.array_split(array, 5) for array in train), strict=True)
    batches = {f"data_batch_{i}": part for i, part in enumerate(parts, 1)}
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, (x, y) in {**batches, "test_batch": test}.items():
            raw = np.concatenate([y.astype(np.uint8)[:, None], x.reshape(len(x), -1)], 1).tobytes()
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return path
