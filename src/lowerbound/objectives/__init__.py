"""Objectives, one a file."""

from lowerbound.objectives.elbo import ELBO
from lowerbound.objectives.iwae import IWAE

__all__ = ["ELBO", "IWAE"]
