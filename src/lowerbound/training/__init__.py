"""Training: fit, and what it is made of.

``fit`` is imported here at once, so that ``training.fit`` is the function, whatever is imported
first.
"""

from lowerbound.training.fit import History, fit

__all__ = ["History", "fit"]
