"""Pictures, as matplotlib figures and PNG files.

Values are shown on the range of the data, never stretched picture by picture, so that two pictures can be compared.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.files import write_atomic
from lowerbound.shapes import Shape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALE = 4  # screen pixels a picture's side is enlarged by, at least, so that 8x8 digits can be seen


def is_picture(event_shape: Shape) -> bool:
    """Whether events can be shown: (H, W), or (C, H, W) with one or three channels.

    Example:
        >>> is_picture((28, 28)), is_picture((3, 32, 32)), is_picture((784,))
        (True, True, False)
    """
    return len(event_shape) == 2 or (len(event_shape) == 3 and event_shape[0] in (1, 3))


def grid(x: Tensor, limits: tuple[float, float] = (0.0, 1.0), columns: int | None = None) -> NDArray[np.uint8]:
    """Pictures (n, H, W) or (n, C, H, W) side by side in one 8-bit colour picture, row by row.

    Args:
        x: the pictures.
        limits: the values shown as black and white; values beyond them are clipped.
        columns: pictures a row; as many as make the sheet square by default.

    Raises:
        ValueError: events that are no pictures.

    Example:
        >>> import torch
        >>> grid(torch.rand(10, 1, 8, 8), columns=5).shape
        (19, 46, 3)
    """
    shape = tuple(x.shape[1:])
    if not is_picture(shape):
        raise ValueError(f"events of shape {shape} are no pictures ((H, W), or (C, H, W) with 1 or 3 channels)")
    n, height, width = len(x), shape[-2], shape[-1]
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    low, high = limits
    pixels = ((x.float().cpu() - low) / max(high - low, 1e-12)).clamp(0, 1).reshape(n, -1, height, width)
    pixels = pixels.expand(n, 3, height, width).permute(0, 2, 3, 1)
    gap = max(1, width // 16)
    sheet = np.full(((height + gap) * rows + gap, (width + gap) * columns + gap, 3), 255, np.uint8)
    for i, picture in enumerate((pixels * 255).round().to(torch.uint8).numpy()):
        top, left = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def save_grid(path: Path, x: Tensor, limits: tuple[float, float], columns: int | None = None) -> None:
    """Write :func:`grid` as a PNG, small pictures enlarged without smoothing."""
    from PIL import Image

    sheet = grid(x, limits, columns)
    times = max(1, SCALE * 32 // max(x.shape[-2:]) // 2)
    enlarged = sheet.repeat(times, 0).repeat(times, 1)
    buffer = io.BytesIO()
    Image.fromarray(enlarged).save(buffer, "PNG")
    write_atomic(path, lambda stream: stream.write(buffer.getvalue()))


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight")
    write_atomic(path, lambda stream: stream.write(buffer.getvalue()))


def sheet(x: Tensor, reconstructions: Tensor, samples: Tensor, limits: tuple[float, float], title: str) -> Figure:
    """Originals above their reconstructions, and samples of the model, on one page.

    Args:
        x: held-out examples, (n, *X).
        reconstructions: of the same, (n, *X).
        samples: from the prior, (m, *X).
        limits: see :func:`grid`.
        title: what model this is.
    """
    from matplotlib.figure import Figure

    columns = 16
    figure = Figure(figsize=(9, 5.7), layout="constrained")
    top, bottom = figure.subplots(2, 1)
    for axes, pictures, label in (
        (
            top,
            pairs(x, reconstructions, columns),
            "held-out examples, and below each its reconstruction (mean of p(x|z) at the mean of q(z|x))",
        ),
        (bottom, samples, "samples: the mean of p(x|z) at z drawn from the prior"),
    ):
        axes.imshow(grid(pictures, limits, columns), interpolation="nearest")
        axes.set_title(label, fontsize=10, loc="left")
        axes.axis("off")
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    return figure


def pairs(x: Tensor, reconstructions: Tensor, columns: int) -> Tensor:
    """Pictures in rows of ``columns``, each row of originals followed by the row of their reconstructions.

    The last rows are filled up with white.
    """
    missing = -len(x) % columns
    filler = x.new_ones(missing, *x.shape[1:])
    rows = [torch.cat([part, filler]).reshape(-1, columns, *x.shape[1:]) for part in (x, reconstructions)]
    return torch.stack(rows, 1).flatten(0, 2)
