"""Models: how the parts are wired, one way a file."""

from lowerbound.models.hierarchical import Hierarchical
from lowerbound.models.m2 import M2
from lowerbound.models.vae import VAE

__all__ = ["M2", "VAE", "Hierarchical"]
