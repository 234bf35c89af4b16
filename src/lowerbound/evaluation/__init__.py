"""Estimators that see a draw and nothing else, one a file."""

from lowerbound.evaluation.active_units import ACTIVE, active_units
from lowerbound.evaluation.log_marginal import Evidence, evidence, log_marginal

__all__ = ["ACTIVE", "Evidence", "active_units", "evidence", "log_marginal"]
