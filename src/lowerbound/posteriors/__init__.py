"""Approximate posteriors q(z|x), one a file."""

from lowerbound.posteriors.diagonal_normal import DiagonalNormal

__all__ = ["DiagonalNormal"]
