"""What torch.distributions lacks."""

from lowerbound.distributions.full_normal import FullNormal, as_multivariate
from lowerbound.distributions.levels import LevelCategorical
from lowerbound.distributions.mean import mean

__all__ = ["FullNormal", "LevelCategorical", "as_multivariate", "mean"]
