"""Objectives, one a file."""

from lowerbound.objectives.beta_tc import BetaTC
from lowerbound.objectives.dreg import DReG
from lowerbound.objectives.elbo import ELBO
from lowerbound.objectives.factor_vae import FactorVAE
from lowerbound.objectives.iwae import IWAE
from lowerbound.objectives.mmd import MMD
from lowerbound.objectives.renyi import Renyi
from lowerbound.objectives.reweighted_wake_sleep import ReweightedWakeSleep

__all__ = ["ELBO", "IWAE", "MMD", "BetaTC", "DReG", "FactorVAE", "Renyi", "ReweightedWakeSleep"]
