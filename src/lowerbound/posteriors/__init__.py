"""Approximate posteriors q(z|x), one a file."""

from lowerbound.posteriors.bernoulli import Bernoulli
from lowerbound.posteriors.categorical import Categorical
from lowerbound.posteriors.diagonal_normal import DiagonalNormal
from lowerbound.posteriors.full_normal import FullNormal
from lowerbound.posteriors.inverse_autoregressive import InverseAutoregressive
from lowerbound.posteriors.planar import Planar
from lowerbound.posteriors.vector_quantised import VectorQuantised

__all__ = [
    "Bernoulli",
    "Categorical",
    "DiagonalNormal",
    "FullNormal",
    "InverseAutoregressive",
    "Planar",
    "VectorQuantised",
]
