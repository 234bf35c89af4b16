"""Samples as they are shown: of a model that is conditioned on y, for each of several y, in rows.

a class     x ~ p(x|y) for each class y
a strip     y, which is some columns of a held-out picture; completions x ~ p(x|y) of it; the
            picture itself
"""

from __future__ import annotations

import torch
from torch import Tensor

from lowerbound.data.dataset import Dataset
from lowerbound.model import Model
from lowerbound.roles import Context

CLASSES = 10  # shown, where there are so many


def by_condition(
    model: Model, context: Context, each: int, seed: int | None = 0, mean_of_x: bool = True
) -> Tensor:
    """Samples of p(x|y), so many for each y of the context: (len(y), each, *X).

    Args:
        model: a model that is conditioned on y.
        context: with y.
        each: samples for each y.
        seed: of the draws.
        mean_of_x: the mean of p(x|z, y) at each z, and no draw from it.

    Raises:
        ValueError: no y, fewer than one sample, or a y that is not what the model is conditioned
            on.

    Example:
        >>> import lowerbound as lb
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal((4,)),
        ...     posterior=lb.posteriors.DiagonalNormal((1, 8, 8), (4,), condition=10),
        ...     likelihood=lb.likelihoods.Bernoulli((4,), (1, 8, 8), condition=10),
        ... )
        >>> by_condition(model, Context(y=torch.arange(10)), each=5).shape
        torch.Size([10, 5, 1, 8, 8])
    """
    y = context.y
    if y is None:
        raise ValueError("there is no y to sample for: give context=Context(y=...)")
    if each < 1:
        raise ValueError(f"n is {each}: at least 1 sample must be asked for")
    drawn = model.sample(len(y) * each, seed, Context(y=y.repeat_interleave(each, 0)), mean_of_x)
    return drawn.reshape(len(y), each, *drawn.shape[1:])


def framed(drawn: Tensor, x: Tensor, data: Dataset) -> Tensor:
    """Rows of samples (n, each, *X) with the example whose y it is behind, and y before, where it
    is a strip.
    """
    row = [drawn.cpu(), x[:, None]]
    if data.strip is not None:
        first, last = data.strip
        alone = torch.full_like(x, data.range[0])
        alone[..., first : last + 1] = x[..., first : last + 1]
        row.insert(0, alone[:, None])
    return torch.cat(row, 1)


def samples_shown(
    model: Model, data: Dataset, split: str, rows: int, columns: int
) -> tuple[Tensor, str]:
    """Means of p(x|z) at z from the prior for a picture of so many columns, (n, *X), and what they
    are.

    Args:
        model: the model.
        data: the data.
        split: of the examples whose y is given, where it is no class.
        rows: of the picture; where the model is conditioned on classes, one for each of at most
            ten.
        columns: of the picture.
    """
    if model.condition is None:
        return model.sample(
            rows * columns, 0, mean_of_x=True
        ).cpu(), "samples: the mean of p(x|z) at z drawn from the prior"
    if isinstance(model.condition, int):
        y = torch.arange(min(model.condition, CLASSES))
        names = ", ".join(list(data.classes or map(str, y.tolist()))[: len(y)])
        drawn = by_condition(model, Context(y=y), columns)
        return drawn.flatten(
            0, 1
        ).cpu(), f"samples: the mean of p(x|z, y) at z drawn from the prior; rows: {names}"
    x, context = data.examples(split, rows), data.context(split)[:rows]
    others = 1 if data.strip is None else 2
    drawn = framed(by_condition(model, context, columns - others), x, data)
    words = "y, " if data.strip is not None else ""
    return drawn.flatten(
        0, 1
    ), f"in each row: {words}samples (the mean of p(x|z, y) at z drawn from the prior), the truth"
