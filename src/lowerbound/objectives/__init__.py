"""Objectives, one a file."""

from lowerbound.objectives.dreg import DReG
from lowerbound.objectives.elbo import ELBO
from lowerbound.objectives.iwae import IWAE
from lowerbound.objectives.renyi import Renyi
from lowerbound.objectives.reweighted_wake_sleep import ReweightedWakeSleep

__all__ = ["ELBO", "IWAE", "DReG", "Renyi", "ReweightedWakeSleep"]
