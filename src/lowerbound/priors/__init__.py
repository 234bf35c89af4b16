"""Priors p(z), one a file."""

from lowerbound.priors.bernoulli import Bernoulli
from lowerbound.priors.categorical import Categorical
from lowerbound.priors.mixture import Mixture
from lowerbound.priors.normal import Normal
from lowerbound.priors.standard_normal import StandardNormal
from lowerbound.priors.vamp import VampPrior

__all__ = ["Bernoulli", "Categorical", "Mixture", "Normal", "StandardNormal", "VampPrior"]
