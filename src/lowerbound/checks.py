"""What must hold when a model meets data: the shape, and a support on which its likelihood is a density."""

from __future__ import annotations

from torch.distributions.constraints import Constraint

from lowerbound.roles import Likelihood
from lowerbound.shapes import Shape
from lowerbound.supports import BINARY, UNIT, Levels, contains, describe


def check_data(likelihood: Likelihood, event_shape: Shape, support: Constraint, name: str) -> None:
    """Refuse data of another shape, or outside the support of the likelihood, with the remedies named.

    Raises:
        ValueError: what does not fit, and what would.
    """
    if event_shape != likelihood.x_shape:
        raise ValueError(
            f"{name} has examples of shape {event_shape}, and the model was built for {likelihood.x_shape}; "
            f"build it with x_shape={event_shape}"
        )
    if contains(likelihood.support, support):
        return
    remedies = []
    if contains(UNIT, support) and support != BINARY:
        remedies.append("binarise the data (data.load(..., binarize='dynamic') or --data.binarize dynamic)")
    categorical = f"Categorical with levels={support.count} or " if isinstance(support, Levels) else ""
    remedies.append(f"choose another likelihood ({categorical}Normal)")
    if contains(UNIT, support):
        remedies.append("or ask for BinaryCrossEntropy by name, which is no likelihood and is reported as such")
    what = "a density" if likelihood.is_density else "a score"
    raise ValueError(
        f"{type(likelihood).__name__} is {what} on {describe(likelihood.support)}, but {name} lies on "
        f"{describe(support)}; remedies: {'; '.join(remedies)}"
    )
