"""Training: fit, those who listen to it, and what it is made of.

``fit`` is imported here at once, so that ``training.fit`` is the function, whatever is imported
first.
"""

from lowerbound.training.callbacks import Callback, CallbackError
from lowerbound.training.fit import fit
from lowerbound.training.history import History

__all__ = ["Callback", "CallbackError", "History", "fit"]
