"""lowerbound: variational autoencoders composed of a prior, an approximate posterior and a likelihood.

    import lowerbound as lb

A model is three conditional distributions, p(z), q(z|x) and p(x|z); one pass gives a draw; an objective is a function of
that draw. Submodules are imported when they are first used, and importing this one changes nothing in torch.
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
    from lowerbound.comparison import Comparison as Comparison
    from lowerbound.comparison import compare as compare
    from lowerbound.measure import evaluate as evaluate
    from lowerbound.measured import Evaluation as Evaluation
    from lowerbound.models import VAE as VAE
    from lowerbound.nats import Estimate as Estimate
    from lowerbound.run import load as load
    from lowerbound.scoring import Scores as Scores
    from lowerbound.scoring import scores as scores
    from lowerbound.tightness import Gaps as Gaps
    from lowerbound.tightness import gaps as gaps
    from lowerbound.train import History as History
    from lowerbound.train import fit as fit

_PACKAGES = (
    "data", "distributions", "evaluation", "explore", "likelihoods", "models", "networks", "objectives", "plots",
    "posteriors", "priors",
)  # fmt: skip
_NAMES = {
    "VAE": "models", "fit": "train", "History": "train", "evaluate": "measure", "Evaluation": "measured",
    "compare": "comparison", "Comparison": "comparison", "gaps": "tightness", "Gaps": "tightness",
    "load": "run", "scores": "scoring", "Scores": "scoring", "Estimate": "nats",
}  # fmt: skip

__all__ = ["__version__", *_PACKAGES, *_NAMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Import on first use (PEP 562), so that the command's help does not wait for torch."""
    if name in _PACKAGES:
        return importlib.import_module(f"lowerbound.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"lowerbound.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'lowerbound' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
