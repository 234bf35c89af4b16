"""Objectives, one a file."""

from lowerbound.objectives.dreg import DReG
from lowerbound.objectives.elbo import ELBO
from lowerbound.objectives.iwae import IWAE

__all__ = ["DReG", "ELBO", "IWAE"]
