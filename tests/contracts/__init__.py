"""One base test for each role: what every part must satisfy. A part's own test says how it is made.

    class TestLaplace(PriorContract):
        make = Laplace

A subclass gives ``make``, and whatever else the contract of its role asks for; the tests come with
the base class. The rules to integrate a density by are in :mod:`tests.quadrature`.
"""

from tests.contracts.checks import (
    NO_CONTEXT,
    SHAPES,
    all_parameters_get_gradients,
    asked,
    check_gradients,
    check_loss_gradients,
    moved,
    within,
)
from tests.contracts.likelihood import LikelihoodContract
from tests.contracts.network import NetworkContract
from tests.contracts.objective import ObjectiveContract
from tests.contracts.posterior import PosteriorContract
from tests.contracts.prior import PriorContract

__all__ = [
    "NO_CONTEXT",
    "SHAPES",
    "LikelihoodContract",
    "NetworkContract",
    "ObjectiveContract",
    "PosteriorContract",
    "PriorContract",
    "all_parameters_get_gradients",
    "asked",
    "check_gradients",
    "check_loss_gradients",
    "moved",
    "within",
]
