"""Evaluation: evaluate and what it returns, and the estimators that see a draw and a model's verbs,
one a file.

What bears the name of its module (``evaluate``, ``compare``, ``gaps``, ``scores``) is imported here
at once, so that ``evaluation.evaluate`` is the function, whatever is imported first.
"""

from lowerbound.evaluation.active_units import ACTIVE, active_units, variance
from lowerbound.evaluation.annealed import Annealed, annealed
from lowerbound.evaluation.collapse import (
    COLLAPSED,
    REMEDIES,
    collapsed_levels,
    is_collapsed,
    warn_of_collapse,
)
from lowerbound.evaluation.compare import Comparison, compare
from lowerbound.evaluation.dci import Dci, dci
from lowerbound.evaluation.estimate import Estimate
from lowerbound.evaluation.evaluate import evaluate
from lowerbound.evaluation.evidence import Evidence, evidence
from lowerbound.evaluation.factor_score import factor_score
from lowerbound.evaluation.gaps import Gaps, gaps
from lowerbound.evaluation.imputed import impute
from lowerbound.evaluation.information import Information, information
from lowerbound.evaluation.log_marginal import log_marginal
from lowerbound.evaluation.mig import mig
from lowerbound.evaluation.refined import REFINING, refined
from lowerbound.evaluation.result import Evaluation
from lowerbound.evaluation.sandwich import Sandwich, sandwich
from lowerbound.evaluation.sap import sap
from lowerbound.evaluation.scores import Scores, scores
from lowerbound.evaluation.weights import (
    TRUSTED,
    bound,
    effective_samples,
    pareto_k,
    remaining_bias,
)

__all__ = [
    "ACTIVE",
    "COLLAPSED",
    "Annealed",
    "Comparison",
    "Dci",
    "Estimate",
    "Evaluation",
    "Evidence",
    "Gaps",
    "Information",
    "Sandwich",
    "Scores",
    "REFINING",
    "REMEDIES",
    "TRUSTED",
    "active_units",
    "annealed",
    "bound",
    "collapsed_levels",
    "compare",
    "dci",
    "effective_samples",
    "evaluate",
    "evidence",
    "factor_score",
    "gaps",
    "impute",
    "information",
    "is_collapsed",
    "log_marginal",
    "mig",
    "pareto_k",
    "refined",
    "remaining_bias",
    "sandwich",
    "sap",
    "scores",
    "variance",
    "warn_of_collapse",
]
