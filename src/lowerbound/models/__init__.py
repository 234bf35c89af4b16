"""Models: how the parts are wired, one way a file."""

from lowerbound.models.hierarchical import Hierarchical
from lowerbound.models.vae import VAE

__all__ = ["VAE", "Hierarchical"]
