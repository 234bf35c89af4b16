"""Priors p(z), one a file."""

from lowerbound.priors.normal import Normal
from lowerbound.priors.standard_normal import StandardNormal

__all__ = ["Normal", "StandardNormal"]
