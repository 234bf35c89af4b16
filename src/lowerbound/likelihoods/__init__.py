"""Likelihoods p(x|z), one a file."""

from lowerbound.likelihoods.bernoulli import Bernoulli
from lowerbound.likelihoods.binary_cross_entropy import BinaryCrossEntropy
from lowerbound.likelihoods.categorical import Categorical
from lowerbound.likelihoods.continuous_bernoulli import ContinuousBernoulli
from lowerbound.likelihoods.discretized_logistic_mixture import DiscretizedLogisticMixture
from lowerbound.likelihoods.negative_binomial import NegativeBinomial
from lowerbound.likelihoods.normal import Normal
from lowerbound.likelihoods.optimal_normal import OptimalNormal
from lowerbound.likelihoods.product import Product

__all__ = [
    "Bernoulli",
    "BinaryCrossEntropy",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogisticMixture",
    "NegativeBinomial",
    "Normal",
    "OptimalNormal",
    "Product",
]
