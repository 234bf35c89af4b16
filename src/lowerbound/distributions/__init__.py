"""What torch.distributions lacks."""

from lowerbound.distributions.full_normal import FullNormal, as_multivariate
from lowerbound.distributions.levels import LevelCategorical
from lowerbound.distributions.mean import mean
from lowerbound.distributions.mixture import Mixture
from lowerbound.distributions.stddev import stddev

__all__ = ["FullNormal", "LevelCategorical", "Mixture", "as_multivariate", "mean", "stddev"]
