"""Estimators that see a draw and a model's verbs, one a file."""

from lowerbound.evaluation.active_units import ACTIVE, active_units, variance
from lowerbound.evaluation.annealed import Annealed, annealed
from lowerbound.evaluation.collapse import COLLAPSED, REMEDIES, collapsed_levels, is_collapsed, warn_of_collapse
from lowerbound.evaluation.dci import Dci, dci
from lowerbound.evaluation.factor_score import factor_score
from lowerbound.evaluation.imputed import impute
from lowerbound.evaluation.information import Information, information
from lowerbound.evaluation.log_marginal import Evidence, evidence, log_marginal
from lowerbound.evaluation.mig import mig
from lowerbound.evaluation.refined import REFINING, refined
from lowerbound.evaluation.sandwich import Sandwich, sandwich
from lowerbound.evaluation.sap import sap
from lowerbound.evaluation.weights import TRUSTED, bound, effective_samples, lacking, pareto_k

__all__ = [
    "ACTIVE",
    "COLLAPSED",
    "Annealed",
    "Dci",
    "Evidence",
    "Information",
    "Sandwich",
    "REFINING",
    "REMEDIES",
    "TRUSTED",
    "active_units",
    "annealed",
    "bound",
    "collapsed_levels",
    "dci",
    "effective_samples",
    "evidence",
    "factor_score",
    "impute",
    "information",
    "is_collapsed",
    "lacking",
    "log_marginal",
    "mig",
    "pareto_k",
    "refined",
    "sandwich",
    "sap",
    "variance",
    "warn_of_collapse",
]
