"""A codebook: K vectors, out of which a latent is put together, one vector at each of P positions.

A latent z of shape (d, *positions) holds the vector of a position along its first dimension, as a
picture holds its channels: (64, 7, 7) are 49 vectors of 64 entries, and (16,) is a single one. In
rows, (..., P, d), the positions stand in the order of their flat index.

    perplexity = exp(-sum_k f_k log f_k), f_k the share of positions at which code k stands

is K where all codes are used alike and 1 where only one is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_DISTANCES = 2**22  # distances that are held at a time: 16 MiB
ALIKE = 1e-4  # of a code's largest entry: what is nearer to it than that differs by rounding


@dataclass(frozen=True)
class Codebook:
    """The vectors, and the shape of what is put together from them.

    Args:
        vectors: (K, d).
        z_shape: (d, *positions), or () for single numbers, d = 1.

    Example:
        >>> book = Codebook(torch.tensor([[0.0, 0.0], [1.0, 1.0], [3.0, 0.0]]), (2, 3))
        >>> z = book.take(torch.tensor([0, 2, 1]))
        >>> z
        tensor([[0., 3., 1.],
                [0., 0., 1.]])
        >>> book.find(z + 0.1), book.holds(z), book.holds(z + 0.1)
        (tensor([0, 2, 1]), tensor(True), tensor(False))
    """

    vectors: Tensor
    z_shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def positions(self) -> int:
        """P."""
        return math.prod(self.z_shape[1:])

    def rows(self, z: Tensor) -> Tensor:
        """(..., *Z) -> (..., P, d)."""
        leading = z.shape[: z.ndim - len(self.z_shape)]
        return z.reshape((*leading, self.vectors.shape[1], self.positions)).transpose(-1, -2)

    def unrows(self, rows: Tensor) -> Tensor:
        """(..., P, d) -> (..., *Z)."""
        return rows.transpose(-1, -2).reshape((*rows.shape[:-2], *self.z_shape))

    def take(self, index: Tensor) -> Tensor:
        """The codes of these numbers: (..., P) -> (..., *Z)."""
        return self.unrows(self.vectors[index])

    @torch.no_grad()
    def find(self, z: Tensor) -> Tensor:
        """The number of the nearest code at each position: (..., *Z) -> (..., P)."""
        rows = self.rows(z)
        # about their own centre, since distances are differences of squares and a common offset
        # would cost them their digits
        centre = self.vectors.mean(0)
        codes = self.vectors - centre
        flat = (rows - centre).reshape(-1, rows.shape[-1]).to(codes)
        pieces = flat.split(max(1, MAX_DISTANCES // len(codes)))
        return torch.cat([torch.cdist(piece, codes).argmin(1) for piece in pieces]).reshape(
            rows.shape[:-1]
        )

    @torch.no_grad()
    def holds(self, z: Tensor, index: Tensor | None = None) -> Tensor:
        """Whether z (..., *Z) is made of codes up to rounding, or of those of these numbers (...,
        P): (...).
        """
        codes = self.vectors[self.find(z) if index is None else index]
        size = codes.abs().amax(-1, keepdim=True)
        rounding = ALIKE * size + torch.finfo(codes.dtype).tiny
        return ((self.rows(z) - codes).abs() <= rounding).all(-1).all(-1)

    def counts(self, index: Tensor) -> Tensor:
        """How often each code occurs among numbers of any shape, (K,)."""
        flat = index.flatten()
        return torch.zeros(len(self), dtype=flat.dtype, device=flat.device).scatter_add_(
            0, flat, torch.ones_like(flat)
        )


def matching(book: Codebook | None, codes: int, prior: str) -> Codebook:
    """The codebook of the posterior for a prior over so many codes.

    Raises:
        ValueError: there is none, or it has another number of codes.
    """
    if book is None:
        raise ValueError(
            f"{prior} is a distribution over the codes of the posterior, and needs one that has a "
            "codebook (VectorQuantised), handed to it as in prior(context, posterior)"
        )
    if len(book) != codes:
        raise ValueError(
            f"{prior} has {codes} codes and the posterior's codebook {len(book)}; give both the "
            "same number"
        )
    return book


def perplexity(counts: Tensor) -> float:
    """How many codes, used alike, would be as unpredictable as these, used so often each, (K,).

    Example:
        >>> perplexity(torch.tensor([5, 5, 5, 5])), perplexity(torch.tensor([20, 0, 0, 0]))
        (4.0, 1.0)
    """
    shares = counts.double() / counts.sum()
    return float(torch.special.entr(shares).sum().exp())
