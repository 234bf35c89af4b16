"""Approximate posteriors q(z|x), one a file."""

from lowerbound.posteriors.diagonal_normal import DiagonalNormal
from lowerbound.posteriors.full_normal import FullNormal
from lowerbound.posteriors.inverse_autoregressive import InverseAutoregressive
from lowerbound.posteriors.planar import Planar

__all__ = ["DiagonalNormal", "FullNormal", "InverseAutoregressive", "Planar"]
