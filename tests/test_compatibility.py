"""What parts declare of each other, and that what cannot be composed is refused where it is
composed.
"""

from __future__ import annotations

import pytest
import torch

import lowerbound as lb
from lowerbound.compatibility import (
    EVALUABLE,
    LOG_DENSITY,
    REPARAMETERISED,
    Capability,
    Requirement,
    check_composed,
    conflict,
)
from lowerbound.objective import Objective, check_parts

X, Z = (4,), (2,)
HEAT = Capability("prior", "is cold", "a warm prior (StandardNormal)")


class Cold(lb.priors.StandardNormal):
    """A prior without something that nobody has heard of."""


class Warm(lb.priors.StandardNormal):
    capabilities = frozenset({HEAT})


class Along(lb.posteriors.DiagonalNormal):
    capabilities = lb.posteriors.DiagonalNormal.capabilities - {EVALUABLE}


class Discrete(lb.posteriors.DiagonalNormal):
    capabilities = lb.posteriors.DiagonalNormal.capabilities - {REPARAMETERISED}


class Freezing(lb.likelihoods.Normal):
    """A likelihood that needs what a prior offers."""

    requirements = {HEAT: Requirement("freezes", "Normal")}


def model(
    prior: type = lb.priors.StandardNormal,
    posterior: type = lb.posteriors.DiagonalNormal,
    likelihood: type = lb.likelihoods.Normal,
) -> lb.VAE:
    return lb.VAE(prior(Z), posterior(X, Z), likelihood(Z, X))


def test_a_model_is_refused_when_it_is_built_and_both_parts_are_named() -> None:
    with pytest.raises(
        ValueError,
        match=r"^Freezing freezes, and Cold is cold; use Normal, or a warm prior \(Standard",
    ):
        model(prior=Cold, likelihood=Freezing)
    model(prior=Warm, likelihood=Freezing)
    model(prior=Cold)


def test_it_does_not_matter_in_which_order_parts_are_given() -> None:
    needy, remaining_bias = Freezing(Z, X), Cold(Z)
    assert conflict(needy, remaining_bias) == conflict(remaining_bias, needy) is not None
    assert conflict(needy, needy) is None  # what is asked of a prior is asked of no likelihood


def test_usual_parts_offer_what_is_usual() -> None:
    parts = (
        lb.priors.StandardNormal(Z),
        lb.posteriors.FullNormal(X, Z),
        lb.likelihoods.Bernoulli(Z, X),
    )
    for objective in (
        lb.objectives.ELBO(path_gradient=True),
        lb.objectives.DReG(),
        lb.objectives.Renyi(),
    ):
        check_composed(objective, *parts)
    assert LOG_DENSITY not in lb.likelihoods.BinaryCrossEntropy(Z, X).capabilities


@pytest.mark.parametrize(
    ("objective", "posterior", "words", "without"),
    [
        (
            lb.objectives.ELBO(path_gradient=True),
            Along,
            "^ELBO takes path gradients, .* and Along knows .* draws alone; use",
            lb.objectives.ELBO(),
        ),
        (
            lb.objectives.DReG(),
            Along,
            "^DReG takes path gradients, .* and Along knows",
            lb.objectives.IWAE(),
        ),
        (
            lb.objectives.DReG(),
            Discrete,
            "^DReG differentiates through draws, and Discrete draws z without a gradient; use "
            "ReweightedWakeSleep, or",
            lb.objectives.ReweightedWakeSleep(),
        ),
    ],
)
def test_an_objective_is_refused_when_it_first_meets_the_model(
    objective: Objective, posterior: type, words: str, without: Objective
) -> None:
    data = lb.data.from_arrays(torch.rand(30, *X).numpy(), splits="train_valid_test")
    with pytest.raises(ValueError, match=words):
        lb.fit(model(posterior=posterior), objective, data, epochs=1, progress=False)
    check_parts(without, model(posterior=posterior))


def test_a_prior_that_is_made_of_the_posterior_needs_its_density_anywhere() -> None:
    with pytest.raises(
        ValueError,
        match="^VampPrior evaluates .* and Along knows .*; use Mixture or StandardNormal, or",
    ):
        lb.VAE(lb.priors.VampPrior(Z, X, components=3), Along(X, Z), lb.likelihoods.Normal(Z, X))
