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
from lowerbound.utils.seeding import seeded

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
    places, shares = principal_components(z)
    axes = tuple(
        f"principal component {i + 1} ({share:.0%} of the variance)"
        for i, share in enumerate(shares.tolist())
    )
    return embedded(plots.codes(places, y, (axes[0], axes[1]), names))


def principal_components(z: Tensor) -> tuple[Tensor, Tensor]:
    """The first two principal components of codes z (N, Z): the codes along them, (N, 2), and their
    shares of the variance, (2,).

    By a few powers of the covariance on random directions (Halko, Martinsson and Tropp 2011, arXiv
    0909.4061), which is exact where Z is small and quick where Z is in the thousands.

    Example:
        >>> z = torch.randn(50, 3) * torch.tensor([1.0, 9.0, 3.0])
        >>> places, shares = principal_components(z)
        >>> places.shape, bool(shares[0] > shares[1])
        (torch.Size([50, 2]), True)
    """
    centred = (z - z.mean(0)).double()
    with seeded(0):
        _, _, directions = torch.svd_lowrank(centred, q=min(12, *z.shape), niter=7)
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    places = centred @ (directions * largest.sign())[:, :2]  # of both signs, always the same one
    return places.float(), places.square().sum(0) / centred.square().sum()
