"""Pictures and figures of the report, embedded in the page as the source of an image.

Events that are pictures are shown as such, and all others as lines; both ways have the same four
verbs.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lowerbound import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def embedded(figure: Figure) -> str:
    """A figure, as the source of an image."""
    return _uri(plots.rendered(figure, "svg"), "svg+xml")


@dataclass(frozen=True)
class Pictures:
    """How pictures are shown."""

    limits: tuple[float, float]

    def samples(self, x: Tensor, columns: int = 8) -> str:
        return _uri(plots.png(x, self.limits, columns), "png")

    def pairs(self, x: Tensor, reconstructions: Tensor) -> str:
        columns = min(8, len(x))
        return self.samples(plots.pairs(x, reconstructions, columns), columns)

    def strip(self, path: Tensor) -> str:
        return _uri(plots.png(path, self.limits, 1), "png")

    def paths(self, groups: Sequence[tuple[str, Tensor]]) -> str:
        return self.samples(torch.cat([path for _, path in groups]), len(groups[0][1]))


class Lines:
    """How events that are no pictures are shown."""

    def samples(self, x: Tensor, columns: int = 8) -> str:
        return embedded(plots.lines([("sample", x)]))

    def pairs(self, x: Tensor, reconstructions: Tensor) -> str:
        return embedded(plots.lines([("x", x), ("reconstruction", reconstructions)]))

    def strip(self, path: Tensor) -> str:
        return embedded(plots.fans([("", path)]))

    def paths(self, groups: Sequence[tuple[str, Tensor]]) -> str:
        return embedded(plots.fans(groups))


def plane(z: Tensor, y: Tensor | None, names: Sequence[str] | None) -> str | None:
    """The codes in the plane: themselves where Z = 2, else their two principal components."""
    if z.shape[1] == 2:
        return embedded(plots.codes(z, y, ("z[0]", "z[1]"), names))
    if z.shape[1] < 2 or len(z) < 3:
        return None
    from sklearn.decomposition import PCA

    components = PCA(2, random_state=0).fit(z.numpy())
    share = components.explained_variance_ratio_
    axes = tuple(f"principal component {i + 1} ({share[i]:.0%} of the variance)" for i in range(2))
    return embedded(
        plots.codes(torch.from_numpy(components.transform(z.numpy())), y, (axes[0], axes[1]), names)
    )
