from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lowerbound.plots import grid, save_figure, save_grid, sheet


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (3, 5, 9)])
def test_every_picture_stands_in_its_place(shape: tuple[int, ...]) -> None:
    x = torch.rand(7, *shape)
    picture = grid(x, columns=3)
    height, width = shape[-2:]
    for i in range(7):
        top, left = 1 + (i // 3) * (height + 1), 1 + (i % 3) * (width + 1)
        expected = (x[i].expand(3, height, width).permute(1, 2, 0) * 255).round().to(torch.uint8)
        assert np.array_equal(picture[top : top + height, left : left + width], expected.numpy())


def test_values_beyond_the_limits_are_clipped_and_the_limits_are_black_and_white() -> None:
    picture = grid(torch.tensor([[[-5.0, -1.0], [1.0, 7.0]]]), limits=(-1.0, 1.0))
    assert picture[1:3, 1:3, 0].tolist() == [[0, 0], [255, 255]]


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(784,\) are no pictures"):
        grid(torch.rand(3, 784))


def test_files_are_real_pictures(tmp_path: Path) -> None:
    x = torch.rand(5, 1, 8, 8)
    save_grid(tmp_path / "bilder ü.png", x, (0, 1))
    with Image.open(tmp_path / "bilder ü.png") as image:
        assert image.size[0] >= 3 * 8 * 4
    save_figure(tmp_path / "sheet.png", sheet(x, x, x, (0, 1), "five"))
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size[0] > 500
