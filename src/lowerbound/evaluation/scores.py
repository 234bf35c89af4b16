"""Scores of a model's codes against the factors that its data were made from.

A code is the mean of q(z|x). All scores lie between 0 and 1 and grow with how far each factor has a
dimension of its own; what each of them asks, and what it cannot see, stands in its module in
``evaluation/``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from lowerbound.data.dataset import Dataset
from lowerbound.evaluation.dci import dci
from lowerbound.evaluation.estimate import Estimate
from lowerbound.evaluation.factor_score import factor_score
from lowerbound.evaluation.factors import checked
from lowerbound.evaluation.mig import mig
from lowerbound.evaluation.sap import sap
from lowerbound.model import Model

EXAMPLES = 10_000  # of which published numbers are made
BINS = 20  # likewise
ENCODED_AT_ONCE = 100  # examples encoded at a time


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a representation is worth. A score that does not exist for the factors or the codes is
    None.

    Args:
        mig: mutual information gap.
        sap: separated attribute predictability; where every factor has a dimension of its own, 1
            less what chance gives.
        disentanglement: whether a dimension tells of one factor only; None for a single factor.
        completeness: whether a factor is in one dimension only; None for a single dimension.
        informativeness: accuracy with which all dimensions together give the factors.
        factor_vae: FactorVAE score; its n counts votes. None for a single factor, which every vote
            names.
        factors: how many vary.
        dimensions: of a code.
    """

    mig: Estimate
    sap: Estimate
    disentanglement: Estimate | None
    completeness: Estimate | None
    informativeness: Estimate
    factor_vae: Estimate | None
    factors: int
    dimensions: int

    def as_json(self) -> dict[str, Any]:
        """Each with value, stderr, n and unit."""
        return {
            name: value.as_json() if isinstance(value, Estimate) else value
            for name, value in vars(self).items()
        }

    def __str__(self) -> str:
        width = max(map(len, vars(self)))
        rows = {name: "–" if value is None else value for name, value in vars(self).items()}
        return "\n".join(f"{name:>{width}}  {value}" for name, value in rows.items())


def scores(
    model: Model,
    data: Dataset,
    split: str = "test",
    examples: int = EXAMPLES,
    bins: int = BINS,
    seed: int = 0,
) -> Scores:
    """Score a model's codes against the factors of its data, or against their labels as a single
    factor.

    Args:
        model: the model; its mode and device are left as they are.
        data: the data set.
        split: "test", "valid" or "train".
        examples: only the first so many of the split.
        bins: into which each dimension is cut for the mutual information gap.
        seed: of halves, forests and votes.

    Raises:
        ValueError: data without factors and labels, or that do not fit the model; factors of which
            none varies; fewer than 2 examples or bins.

    Example:
        >>> import lowerbound as lb
        >>> digits = lb.data.load("digits")
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal((4,)),
        ...     posterior=lb.posteriors.DiagonalNormal(digits.event_shape, (4,)),
        ...     likelihood=lb.likelihoods.Normal((4,), digits.event_shape),
        ... )
        >>> result = lb.scores(model, digits)
        >>> result.factors, result.dimensions, 0 <= result.mig.value <= 1
        (1, 4, True)
    """
    if examples < 2:
        raise ValueError(f"examples is {examples}: at least 2 are needed")
    data = model.matched(data)
    factors = data.factors(split)[:examples]
    x, context = data.examples(split, examples), data.context(split)[:examples]
    batches = [slice(start, start + ENCODED_AT_ONCE) for start in range(0, len(x), ENCODED_AT_ONCE)]
    codes = torch.cat(
        [model.encode(x[rows], context[rows]).cpu().reshape(len(x[rows]), -1) for rows in batches]
    )
    importances = dci(codes, factors, seed)
    varying = checked(codes, factors)[1].shape[1]
    return Scores(
        mig=mig(codes, factors, bins).estimate,
        sap=sap(codes, factors, seed=seed).estimate,
        disentanglement=importances.disentanglement,
        completeness=importances.completeness,
        informativeness=importances.informativeness,
        factor_vae=factor_score(codes, factors, seed=seed).estimate if varying > 1 else None,
        factors=varying,
        dimensions=codes.shape[1],
    )
