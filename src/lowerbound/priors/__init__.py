"""Priors p(z), one a file."""

from lowerbound.priors.autoregressive_codes import AutoregressiveCodes
from lowerbound.priors.bernoulli import Bernoulli
from lowerbound.priors.categorical import Categorical
from lowerbound.priors.conditional_normal import ConditionalNormal
from lowerbound.priors.independent_codes import IndependentCodes
from lowerbound.priors.mixture import Mixture
from lowerbound.priors.neural_spline import NeuralSpline
from lowerbound.priors.normal import Normal
from lowerbound.priors.realnvp import RealNVP
from lowerbound.priors.standard_normal import StandardNormal
from lowerbound.priors.vamp import VampPrior

__all__ = [
    "AutoregressiveCodes",
    "Bernoulli",
    "Categorical",
    "ConditionalNormal",
    "IndependentCodes",
    "Mixture",
    "NeuralSpline",
    "Normal",
    "RealNVP",
    "StandardNormal",
    "VampPrior",
]
