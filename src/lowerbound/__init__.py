"""lowerbound: variational autoencoders composed of a prior, an approximate posterior and a
likelihood.

    import lowerbound as lb

A model is three conditional distributions, p(z), q(z|x) and p(x|z); one pass gives a draw; an
objective is a function of that draw. Submodules are imported when they are first used, and
importing this one changes nothing in torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lowerbound import data as data
    from lowerbound import distributions as distributions
    from lowerbound import evaluation as evaluation
    from lowerbound import explore as explore
    from lowerbound import likelihoods as likelihoods
    from lowerbound import models as models
    from lowerbound import networks as networks
    from lowerbound import objectives as objectives
    from lowerbound import plots as plots
    from lowerbound import posteriors as posteriors
    from lowerbound import priors as priors
    from lowerbound.evaluation import Comparison as Comparison
    from lowerbound.evaluation import Estimate as Estimate
    from lowerbound.evaluation import Evaluation as Evaluation
    from lowerbound.evaluation import Gaps as Gaps
    from lowerbound.evaluation import Scores as Scores
    from lowerbound.evaluation import compare as compare
    from lowerbound.evaluation import evaluate as evaluate
    from lowerbound.evaluation import gaps as gaps
    from lowerbound.evaluation import scores as scores
    from lowerbound.models import VAE as VAE
    from lowerbound.runs import load as load
    from lowerbound.training.callbacks import Callback as Callback
    from lowerbound.training.callbacks import CallbackError as CallbackError
    from lowerbound.training.fit import fit as fit
    from lowerbound.training.history import History as History

_PACKAGES = (
    "data", "distributions", "evaluation", "explore", "likelihoods", "models", "networks",
    "objectives", "plots", "posteriors", "priors",
)  # fmt: skip
_NAMES = {
    "VAE": "models", "fit": "training", "History": "training", "load": "runs",
    "Callback": "training", "CallbackError": "training",
    **dict.fromkeys(
        ("evaluate", "Evaluation", "compare", "Comparison", "gaps", "Gaps", "scores", "Scores",
         "Estimate"),
        "evaluation",
    ),
}  # fmt: skip
"""The package that each name comes from."""

__all__ = ["__version__", *_PACKAGES, *_NAMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Import on first use (PEP 562), so that the command's help does not wait for torch."""
    if name in _PACKAGES:
        return importlib.import_module(f"lowerbound.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"lowerbound.{_NAMES[name]}"), name)
    raise AttributeError(
        f"module 'lowerbound' has no attribute {name!r}; it has {', '.join(__all__)}"
    )


def __dir__() -> list[str]:
    return sorted(__all__)
