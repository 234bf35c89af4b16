"""The name by which passes.py knows a model, until it asks for :class:`~lowerbound.model.Model` itself."""

from lowerbound.model import Model as VAE

__all__ = ["VAE"]
