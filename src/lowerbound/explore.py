"""Looking into a model: what changes in x when z moves.

    traverse      one latent dimension moves through its range, the others stay
    interpolate   z moves in a straight line between the codes of two examples
    manifold      z moves over a plane, where there are two dimensions

All give means of p(x|z), deterministic; of a model that is conditioned on y, of p(x|z, y). Discrete
codes stay codes: a variable takes each of its values, and between two examples one variable after
the other changes from the one's value to the other's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lowerbound.model import Model
from lowerbound.roles import Context
from lowerbound.shapes import numel
from lowerbound.utils.modes import evaluating
from lowerbound.utils.seeding import seeded

SPAN = 3.0  # prior standard deviations to each side: beyond them lies 0.3 % of a normal prior


@torch.no_grad()
def rates(
    model: Model, x: Tensor, batch_size: int = 500, context: Context | None = None
) -> tuple[Tensor | None, Tensor]:
    """The rate of each latent dimension in nats, and the variance of its code over x, each
    (dimensions,).

    A categorical variable is one dimension, and its variance the sum of those of its entries.

    Args:
        model: the model.
        x: examples, (n, *X).
        batch_size: examples at a time.
        context: labels, mask and the like.

    Returns:
        The rates are None where posterior and prior do not have independent entries.
    """
    parts, means = [], []
    context = context or Context()
    with seeded(0), evaluating(model):  # a rate without a closed form is one of draws
        for start in range(0, len(x), batch_size):
            rows = slice(start, start + batch_size)
            draw = model(x[rows], context[rows])
            parts.append(draw.rate_per_dimension)
            means.append(
                model.encode(x[rows], context[rows]).reshape(
                    len(x[rows]), -1, model.categories or 1
                )
            )
    known = [part for part in parts if part is not None]
    variance = torch.cat(means).cpu().double().var(0).sum(1).float()
    return (torch.cat(known).mean(0) if len(known) == len(parts) else None), variance


def traverse(
    model: Model, z: Tensor, dimensions: list[int], steps: int = 15, context: Context | None = None
) -> Tensor:
    """Means of p(x|z) as single latent dimensions move from -3 to +3 prior standard deviations:
    (dimensions, steps, *X).

    A discrete variable takes each of its values in turn, whatever ``steps`` says: (dimensions,
    values, *X).

    Args:
        model: the model.
        z: a code, where the other dimensions stay, (*Z).
        dimensions: which move, as positions in the flattened code, or of the variable, where codes
            are discrete.
        steps: how many values each takes.
        context: labels and the like, one row.

    Raises:
        ValueError: a dimension that there is not, or fewer than 2 steps.

    Example:
        >>> import lowerbound as lb
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal((4,)),
        ...     posterior=lb.posteriors.DiagonalNormal((1, 8, 8), (4,)),
        ...     likelihood=lb.likelihoods.Normal((4,), (1, 8, 8)),
        ... )
        >>> traverse(model, torch.zeros(4), [0, 2], steps=5).shape
        torch.Size([2, 5, 1, 8, 8])
    """
    n = z.numel() // (model.categories or 1)
    if steps < 2:
        raise ValueError(f"steps is {steps}: a traversal needs at least 2")
    if wrong := [d for d in dimensions if not 0 <= d < n]:
        raise ValueError(f"there is no latent dimension {wrong[0]}; they are numbered 0 to {n - 1}")
    if model.categories is not None:
        return torch.stack(
            [model.decode(_values(z, d, model.categories), context) for d in dimensions]
        )
    mean, scale = (value.flatten() for value in model.prior_scale(z, context))
    rows = []
    for d in dimensions:
        moved = z.to(mean).flatten().repeat(steps, 1)
        moved[:, d] = mean[d] + scale[d] * torch.linspace(-SPAN, SPAN, steps, device=mean.device)
        rows.append(model.decode(model.down_to(moved.reshape(steps, *z.shape), d), context))
    return torch.stack(rows)


def _values(z: Tensor, dimension: int, categories: int) -> Tensor:
    """A discrete code with one variable at each of its values, (values, *Z)."""
    every = torch.eye(categories) if categories > 1 else torch.tensor([[0.0], [1.0]])
    moved = z.flatten().repeat(len(every), 1)
    moved[:, dimension * categories : (dimension + 1) * categories] = every.to(moved)
    return moved.reshape(-1, *z.shape)


def interpolate(
    model: Model,
    start: Tensor,
    end: Tensor,
    steps: int = 10,
    contexts: tuple[Context | None, Context | None] = (None, None),
) -> Tensor:
    """Means of p(x|z) on the straight line between the codes of examples: (B, steps, *X).

    Args:
        model: the model.
        start: examples, (B, *X).
        end: as many others, (B, *X).
        steps: points of the line, both ends included.
        contexts: what is known beside the ones and beside the others; a line is decoded with the y
            of its start.

    Raises:
        ValueError: fewer than 2 steps.
    """
    if steps < 2:
        raise ValueError(f"steps is {steps}: a line needs at least 2 points")
    first, last = model.encode(start, contexts[0]), model.encode(end, contexts[1])
    # one y a row, and beside it the steps of the row
    y = None if contexts[0] is None or contexts[0].y is None else Context(y=contexts[0].y[:, None])
    weights = torch.linspace(0, 1, steps, device=first.device).reshape(
        1, steps, *[1] * len(model.code_shape)
    )
    if model.categories is not None:
        n = numel(model.code_shape) // model.categories
        place = (
            torch.arange(n, device=first.device)
            .repeat_interleave(model.categories)
            .reshape(model.code_shape)
        )
        return model.decode(
            torch.where(place < (weights * n).round(), last[:, None], first[:, None]), y
        )
    return model.decode(torch.lerp(first[:, None], last[:, None], weights), y)


def manifold(model: Model, side: int = 20, context: Context | None = None) -> Tensor:
    """Means of p(x|z) over a plane of two latent dimensions: (side * side, *X), row by row, the
    second one upwards.

    The plane is cut at equal probability under a normal prior of the same mean and scale, so that
    each picture stands for the same share of samples (Kingma and Welling 2013, arXiv 1312.6114,
    appendix A).

    Args:
        model: a model with two latent dimensions.
        side: pictures to a side.
        context: labels and the like, one row.

    Raises:
        ValueError: discrete codes, another number of latent dimensions, or a side below 2.
    """
    if model.categories is not None:
        raise ValueError(
            "a manifold is one of two real latent dimensions, and these codes are discrete; use "
            "traverse"
        )
    if (dimensions := numel(model.code_shape)) != 2:
        raise ValueError(
            "a manifold can be shown where there are 2 latent dimensions, and here there are "
            f"{dimensions}"
        )
    if side < 2:
        raise ValueError(f"side is {side}: at least 2 pictures to a side are needed")
    mean, scale = (
        value.flatten() for value in model.prior_scale(torch.zeros(model.code_shape), context)
    )
    probabilities = (torch.arange(side, device=mean.device) + 0.5) / side
    quantiles = torch.special.ndtri(probabilities)
    across = mean[0] + scale[0] * quantiles
    upwards = (mean[1] + scale[1] * quantiles).flip(0)
    z = torch.stack([across.repeat(side), upwards.repeat_interleave(side)], 1)
    return model.decode(z.reshape(-1, *model.code_shape), context)
