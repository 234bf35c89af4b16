"""Likelihoods p(x|z), one a file."""

from lowerbound.likelihoods.bernoulli import Bernoulli
from lowerbound.likelihoods.binary_cross_entropy import BinaryCrossEntropy
from lowerbound.likelihoods.categorical import Categorical
from lowerbound.likelihoods.normal import Normal

__all__ = ["Bernoulli", "BinaryCrossEntropy", "Categorical", "Normal"]
