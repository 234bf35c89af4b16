"""Pictures, as matplotlib figures and PNG files.

Values are shown on the range of the data, never stretched picture by picture, so that two pictures
can be compared.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lowerbound.shapes import Shape
from lowerbound.utils.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# screen pixels that a picture's longer side is enlarged to, at least, so that 8x8 digits can be
# seen
SCREEN = 64
COLOURS = (
    "#2563eb",
    "#ea580c",
    "#059669",
    "#7c3aed",
    "#db2777",
    "#0891b2",
    "#ca8a04",
    "#dc2626",
    "#4b5563",
    "#65a30d",
)


def is_picture(event_shape: Shape) -> bool:
    """Whether events can be shown: (H, W), or (C, H, W) with one or three channels.

    Example:
        >>> is_picture((28, 28)), is_picture((3, 32, 32)), is_picture((784,))
        (True, True, False)
    """
    return len(event_shape) == 2 or (len(event_shape) == 3 and event_shape[0] in (1, 3))


def grid(
    x: Tensor, limits: tuple[float, float] = (0.0, 1.0), columns: int | None = None
) -> NDArray[np.uint8]:
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
        raise ValueError(
            f"events of shape {shape} are no pictures ((H, W), or (C, H, W) with 1 or 3 channels)"
        )
    n, height, width = len(x), shape[-2], shape[-1]
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    low, high = limits
    pixels = (
        ((x.float().cpu() - low) / max(high - low, 1e-12)).clamp(0, 1).reshape(n, -1, height, width)
    )
    pixels = pixels.expand(n, 3, height, width).permute(0, 2, 3, 1)
    gap = max(1, width // 16)
    sheet = np.full(((height + gap) * rows + gap, (width + gap) * columns + gap, 3), 255, np.uint8)
    for i, picture in enumerate((pixels * 255).round().to(torch.uint8).numpy()):
        top, left = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def pairs(x: Tensor, reconstructions: Tensor, columns: int) -> Tensor:
    """Pictures in rows of ``columns``, each row of originals followed by the row of their
    reconstructions.

    The last rows are filled up with white.
    """
    missing = -len(x) % columns
    filler = x.new_ones(missing, *x.shape[1:])
    rows = [
        torch.cat([part, filler]).reshape(-1, columns, *x.shape[1:])
        for part in (x, reconstructions)
    ]
    return torch.stack(rows, 1).flatten(0, 2)


def png(x: Tensor, limits: tuple[float, float], columns: int | None = None) -> bytes:
    """:func:`grid` as a PNG, small pictures enlarged without smoothing."""
    from PIL import Image

    sheet = grid(x, limits, columns)
    times = max(1, math.ceil(SCREEN / max(x.shape[-2:])))
    buffer = io.BytesIO()
    Image.fromarray(sheet.repeat(times, 0).repeat(times, 1)).save(buffer, "PNG")
    return buffer.getvalue()


def save_grid(
    path: Path, x: Tensor, limits: tuple[float, float], columns: int | None = None
) -> None:
    """Write :func:`grid` as a PNG."""
    content = png(x, limits, columns)
    write_atomic(path, lambda stream: stream.write(content))


def rendered(figure: Figure, kind: str = "png") -> bytes:
    """A figure as the bytes of a PNG or SVG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=120, bbox_inches="tight")
    return buffer.getvalue()


def _blank(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure  # a third of a second, which only drawing should pay

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure as a PNG."""
    content = rendered(figure)
    write_atomic(path, lambda stream: stream.write(content))


def pictures(
    x: Tensor, limits: tuple[float, float], columns: int | None = None, title: str = ""
) -> Figure:
    """Pictures side by side as a figure: samples, the frames of a traversal, an interpolation or
    the latent plane.

    Args:
        x: (n, H, W) or (n, C, H, W).
        limits: see :func:`grid`.
        columns: see :func:`grid`.
        title: what is shown.

    Example:
        >>> import torch
        >>> figure = pictures(torch.rand(6, 1, 8, 8), (0, 1), columns=3, title="noise")
        >>> figure.axes[0].get_title(loc="left")
        'noise'
    """
    shown = grid(x, limits, columns)
    figure = _blank(7, 0.4 + 7 * shown.shape[0] / shown.shape[1])
    _draw(figure.subplots(), shown, title)
    return figure


def _draw(axes: Any, shown: NDArray[np.uint8], title: str) -> None:
    axes.imshow(shown, interpolation="nearest")
    axes.set_title(title, fontsize=10, loc="left")
    axes.axis("off")


def sheet(
    x: Tensor,
    reconstructions: Tensor,
    samples: Tensor,
    limits: tuple[float, float],
    title: str,
    words: str = "samples: the mean of p(x|z) at z drawn from the prior",
) -> Figure:
    """Originals above their reconstructions, and samples of the model, on one page.

    Args:
        x: held-out examples, (n, *X).
        reconstructions: of the same, (n, *X).
        samples: from the model, (m, *X).
        limits: see :func:`grid`.
        title: what model this is.
        words: what the samples are.
    """
    columns = 16
    both, below = (
        grid(pairs(x, reconstructions, columns), limits, columns),
        grid(samples, limits, columns),
    )
    heights = [both.shape[0], below.shape[0]]
    figure = _blank(9, 1.2 + 9 * sum(heights) / both.shape[1])
    top, bottom = figure.subplots(2, 1, height_ratios=heights)
    _draw(top, both, "held-out examples, and below each its reconstruction")
    _draw(bottom, below, words)
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    return figure


def curves(records: Sequence[Mapping[str, Any]]) -> Figure:
    """What was learned when: bound, rate and distortion of each epoch, on training and validation
    data.

    Below them stands what else the objective logs, such as a total correlation.

    Args:
        records: as in metrics.jsonl.
    """
    is_density = records[0]["train"]["elbo"] is not None
    usual = ("elbo", "rate", "distortion") if is_density else ("loss", "rate", "cross_entropy")
    names = [
        *usual,
        *(
            name
            for name in records[0]["train"]
            if name not in (*usual, "loss", "elbo", "distortion")
        ),
    ]
    rows = math.ceil(len(names) / 3)
    figure = _blank(9, 2.7 * rows)
    epochs = [record["epoch"] for record in records]
    panels = figure.subplots(rows, 3, squeeze=False).flatten()
    for axes in panels[len(names) :]:
        axes.axis("off")
    for axes, name in zip(panels, names, strict=False):
        for split, colour in (("train", COLOURS[0]), ("valid", COLOURS[1])):
            values = [(record[split] or {}).get(name) for record in records]
            if any(value is not None for value in values):
                numbers = [math.nan if value is None else value for value in values]
                axes.plot(
                    epochs,
                    numbers,
                    color=colour,
                    label=split,
                    marker="." if len(epochs) < 15 else "",
                )
        _clip_start(
            axes,
            [(r[s] or {}).get(name) for r in records for s in ("train", "valid")],
            len(records),
        )
        _plain(axes, name.replace("_", " "), "epoch", "nats" if name in usual else "")
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


def _clip_start(axes: Any, values: Sequence[float | None], epochs: int) -> None:
    """Leave the first epochs' plunge out of the scale, where the rest would become a flat line."""
    known = [value for value in values if value is not None]
    if epochs >= 10 and known:
        low, high = np.quantile(known, [0.0, 1.0])
        inner_low, inner_high = np.quantile(known, [0.1, 0.9])
        margin = max(inner_high - inner_low, 1e-9)
        axes.set_ylim(max(low, inner_low - 1.5 * margin), min(high, inner_high + 1.5 * margin))


def rate_bars(rates: Tensor, active: Tensor, unit: str = "nats") -> Figure:
    """The rate of each latent dimension, largest first, active ones in colour.

    Args:
        rates: (dimensions,).
        active: which dimensions are active, (dimensions,).
        unit: of the bars.
    """
    order = rates.argsort(descending=True).cpu()
    figure = _blank(9, 2.4)
    axes = figure.subplots()
    colours = [COLOURS[0] if active[i] else "#cbd5e1" for i in order]
    axes.bar(range(len(order)), rates.cpu()[order].numpy(), color=colours)
    if len(order) <= 64:
        axes.set_xticks(range(len(order)), [str(int(i)) for i in order], fontsize=7)
    _plain(axes, "", "latent dimension", unit)
    return figure


def evidence(points: Sequence[Mapping[str, Any]]) -> Figure:
    """-log p(x) as it falls with the number of importance samples, with standard errors.

    Args:
        points: of the curve, as in evaluation.json: ``samples`` and ``nll``.
    """
    figure = _blank(4.4, 2.4)
    axes = figure.subplots()
    samples = [point["samples"] for point in points]
    values, errors = ([point["nll"][key] for point in points] for key in ("value", "stderr"))
    axes.errorbar(
        samples,
        values,
        yerr=[e or 0.0 for e in errors],
        marker="o",
        markersize=4,
        capsize=3,
        color=COLOURS[0],
    )
    axes.set_xscale("log")
    _plain(axes, "", "importance samples K", "−log p(x), nats")
    return figure


def codes(
    z: Tensor, y: Tensor | None, axes_names: tuple[str, str], classes: Sequence[str] | None = None
) -> Figure:
    """Codes in the plane, coloured by label.

    Args:
        z: (n, 2).
        y: labels, (n,), or None.
        axes_names: what the two axes are.
        classes: names of the labels 0, 1, ...; None shows the labels themselves.
    """
    figure = _blank(6.4, 5.6)
    axes = figure.subplots()
    points = z.cpu().numpy()
    labels = [] if y is None else y.unique().tolist()
    if y is None:
        axes.scatter(points[:, 0], points[:, 1], s=6, color=COLOURS[0], linewidths=0)
    elif len(labels) > 2 * len(COLOURS):
        axes.scatter(
            points[:, 0], points[:, 1], s=6, c=y.cpu().numpy(), cmap="viridis", linewidths=0
        )
    else:
        for i, label in enumerate(labels):
            chosen = points[(y == label).cpu().numpy()]
            axes.scatter(
                chosen[:, 0],
                chosen[:, 1],
                s=6,
                color=COLOURS[i % len(COLOURS)],
                label=str(label) if classes is None else classes[label],
                linewidths=0,
                alpha=0.8,
            )
        axes.legend(
            frameon=False, fontsize=8, markerscale=2, loc="center left", bbox_to_anchor=(1, 0.5)
        )
    _plain(axes, "", *axes_names)
    return figure


def lines(groups: Sequence[tuple[str, Tensor]], rows: int = 6) -> Figure:
    """Events that are no pictures, as lines over their entries: several versions of each example in
    one panel.

    Args:
        groups: name and values (n, *X) of each version.
        rows: how many examples.
    """
    count = min(rows, len(groups[0][1]))
    figure = _blank(9, 1.3 * math.ceil(count / 2) + 0.5)
    panels = figure.subplots(math.ceil(count / 2), 2, squeeze=False).flatten()
    for i, axes in enumerate(panels):
        axes.axis("off" if i >= count else "on")
        for (name, values), colour in zip(groups, COLOURS, strict=False):
            if i < count:
                axes.plot(
                    values[i].flatten().cpu().numpy(),
                    marker=".",
                    color=colour,
                    label=name,
                    linewidth=1,
                )
        _plain(axes, "", "", "")
    panels[0].legend(frameon=False, fontsize=7)
    return figure


def fans(groups: Sequence[tuple[str, Tensor]]) -> Figure:
    """Paths through events that are no pictures: one panel a path, its steps from light to dark.

    Args:
        groups: name and values (steps, *X) of each path.
    """
    figure = _blank(9, 1.5 * math.ceil(len(groups) / 3) + 0.3)
    panels = figure.subplots(math.ceil(len(groups) / 3), 3, squeeze=False).flatten()
    for i, axes in enumerate(panels):
        if i >= len(groups):
            axes.axis("off")
            continue
        name, path = groups[i]
        for step, values in enumerate(path):
            shade = 0.2 + 0.8 * step / max(1, len(path) - 1)
            axes.plot(
                values.flatten().cpu().numpy(),
                color=COLOURS[0],
                alpha=shade,
                linewidth=1,
                marker=".",
            )
        _plain(axes, name, "", "")
    return figure


def _plain(axes: Any, title: str, across: str, upwards: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(across, fontsize=9)
    axes.set_ylabel(upwards, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
