"""Priors p(z), one a file."""

from lowerbound.priors.standard_normal import StandardNormal

__all__ = ["StandardNormal"]
