"""Objectives, one a file."""

from lowerbound.objectives.elbo import ELBO

__all__ = ["ELBO"]
