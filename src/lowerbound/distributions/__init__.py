"""What torch.distributions lacks."""

from lowerbound.distributions.codes import AutoregressiveCodes, CodePoint, IndependentCodes
from lowerbound.distributions.discretized_logistic_mixture import (
    ChannelsFirst,
    DiscretizedLogisticMixture,
)
from lowerbound.distributions.entrywise_normal import EntrywiseNormal, UnitNormal
from lowerbound.distributions.flow import Bijection, Flow
from lowerbound.distributions.frozen import frozen
from lowerbound.distributions.full_normal import FullNormal, as_multivariate
from lowerbound.distributions.independent_bernoulli import IndependentBernoulli, RelativeBernoulli
from lowerbound.distributions.levels import LevelCategorical
from lowerbound.distributions.mixture import Mixture
from lowerbound.distributions.moments import mean, stddev
from lowerbound.distributions.negative_binomial import NegativeBinomial
from lowerbound.distributions.one_hot import OneHot
from lowerbound.distributions.product import Product
from lowerbound.distributions.relaxed import (
    categories,
    is_code,
    nearest,
    relaxed,
    relaxed_logits,
    squashed,
    straight_through,
)
from lowerbound.distributions.rescaled import Rescaled, standardised
from lowerbound.distributions.states import count_states, states

__all__ = [
    "AutoregressiveCodes",
    "Bijection",
    "ChannelsFirst",
    "CodePoint",
    "DiscretizedLogisticMixture",
    "EntrywiseNormal",
    "Flow",
    "FullNormal",
    "IndependentBernoulli",
    "IndependentCodes",
    "LevelCategorical",
    "Mixture",
    "NegativeBinomial",
    "OneHot",
    "Product",
    "RelativeBernoulli",
    "Rescaled",
    "UnitNormal",
    "as_multivariate",
    "categories",
    "count_states",
    "frozen",
    "is_code",
    "mean",
    "nearest",
    "relaxed",
    "relaxed_logits",
    "squashed",
    "standardised",
    "states",
    "stddev",
    "straight_through",
]
