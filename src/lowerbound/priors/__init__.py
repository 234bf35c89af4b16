"""Priors p(z), one a file."""

from lowerbound.priors.conditional_normal import ConditionalNormal
from lowerbound.priors.mixture import Mixture
from lowerbound.priors.normal import Normal
from lowerbound.priors.standard_normal import StandardNormal
from lowerbound.priors.vamp import VampPrior

__all__ = ["ConditionalNormal", "Mixture", "Normal", "StandardNormal", "VampPrior"]
