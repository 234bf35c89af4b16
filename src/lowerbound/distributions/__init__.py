"""What torch.distributions lacks."""

from lowerbound.distributions.discretized_logistic_mixture import ChannelsFirst, DiscretizedLogisticMixture
from lowerbound.distributions.flow import Bijection, Flow
from lowerbound.distributions.full_normal import FullNormal, as_multivariate
from lowerbound.distributions.levels import LevelCategorical
from lowerbound.distributions.mean import mean
from lowerbound.distributions.mixture import Mixture
from lowerbound.distributions.negative_binomial import NegativeBinomial
from lowerbound.distributions.stddev import stddev

__all__ = [
    "Bijection",
    "ChannelsFirst",
    "DiscretizedLogisticMixture",
    "Flow",
    "FullNormal",
    "LevelCategorical",
    "Mixture",
    "NegativeBinomial",
    "as_multivariate",
    "mean",
    "stddev",
]
