"""What torch.distributions lacks."""

from lowerbound.distributions.kl import closed_form_kl
from lowerbound.distributions.levels import LevelCategorical
from lowerbound.distributions.mean import mean

__all__ = ["LevelCategorical", "closed_form_kl", "mean"]
