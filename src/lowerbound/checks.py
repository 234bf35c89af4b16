"""What must hold before work begins: at least one draw; when a model meets data, the shape and a
support on which its likelihood is a density; examples that are real and finite; finite weights.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from lowerbound.data.dataset import Dataset
from lowerbound.data.mapped import MappedRows
from lowerbound.roles import Likelihood
from lowerbound.shapes import Shape
from lowerbound.supports import BINARY, COUNTS, UNIT, Columns, Levels, contains, describe, union
from lowerbound.units import far_from_zero
from lowerbound.utils.messages import some

LARGEST = math.sqrt(sys.float_info.max)  # beyond it a square is infinite


def check_data(likelihood: Likelihood, event_shape: Shape, support: Constraint, name: str) -> None:
    """Refuse data of another shape, or outside the support of the likelihood, with the remedies
    named.

    Raises:
        ValueError: what does not fit, and what would.
    """
    if event_shape != likelihood.x_shape:
        raise ValueError(
            f"{name} has examples of shape {event_shape}, and the model was built for "
            f"{likelihood.x_shape}; build it with x_shape={event_shape}"
        )
    if contains(likelihood.support, support):
        return
    if isinstance(support, Columns) and not isinstance(likelihood.support, Columns):
        support = union(support.each)
    if isinstance(likelihood.support, Columns):
        _refuse_columns(likelihood, support, name)
    remedies = []
    if contains(UNIT, support) and support != BINARY:
        remedies.append(
            "binarise the data (data.load(..., binarize='dynamic') or --data.binarize dynamic)"
        )
    if likelihood.support is COUNTS and isinstance(support, Levels):
        remedies.append(
            "read integers as counts (data.load(..., levels='none') or --data.levels none)"
        )
    counts = "NegativeBinomial or " if contains(COUNTS, support) and support != BINARY else ""
    categorical = (
        f"Categorical with levels={support.count} or " if isinstance(support, Levels) else ""
    )
    remedies.append(f"choose another likelihood ({categorical}{counts}Normal)")
    if contains(UNIT, support):
        remedies.append(
            "or ask for BinaryCrossEntropy by name, which is no likelihood and is reported as such"
        )
    what = "a density" if likelihood.is_density else "a score"
    raise ValueError(
        f"{type(likelihood).__name__} is {what} on {describe(likelihood.support)}, but {name} lies "
        f"on {describe(support)}; remedies: {'; '.join(remedies)}"
    )


def check_classes(likelihood: Likelihood, data: Dataset) -> None:
    """Refuse a likelihood on a column of classes that gives no probabilities of its labels.

    Its draws would lie between the labels, or beyond them. A likelihood of L classes is one whose
    support there are the L levels and nothing else: Bernoulli for two, Categorical, or a Product
    with such groups.

    Raises:
        ValueError: which columns, and what would fit.
    """
    support = likelihood.support
    accepted = support.each if isinstance(support, Columns) else None
    columns = data.columns or ()
    wrong = [
        name
        for i, name in enumerate(columns)
        if name in data.categories
        and (accepted[i] if accepted else support) != Levels(len(data.categories[name]))
    ]
    if not wrong:
        return
    named = [f"{name!r} ({some(data.categories[name], 3)})" for name in wrong]
    is_one = len(wrong) == 1
    are_two = all(len(data.categories[name]) == 2 for name in wrong)
    fits = "Bernoulli" if are_two else "Categorical with levels=L"
    raise ValueError(
        f"{type(likelihood).__name__} is no likelihood of classes, which "
        f"{'the column' if is_one else 'the columns'} {some(named)} of "
        f"{data.name or 'the data'} hold{'s' * is_one}; take --likelihood Product, which gives "
        f"every kind of column its own ({fits} for {'this one' if is_one else 'these'})"
    )


def check_columns(likelihood: Likelihood, data: Dataset) -> None:
    """Refuse to train on columns of a table of which nothing can be learnt.

    A column without a value would be invented; the density of one that never varies grows without
    end where its scale is learned, and every number with it.

    Raises:
        ValueError: which columns, and how to leave them out.
    """
    if len(data.event_shape) != 1:
        return
    split = data["train"]
    values, mask = split.values, split.mask
    parts = values.chunks() if isinstance(values, MappedRows) else [values]
    ends = [_ends(part, mask) for part in parts]
    low = torch.stack([each[0] for each in ends]).amin(0)
    high = torch.stack([each[1] for each in ends]).amax(0)
    empty = (low > high).nonzero().flatten().tolist()
    constant = [i for i in likelihood.scaled_entries if low[i] == high[i]]
    for which, what, why in (
        (empty, "no value", "it would be invented"),
        (constant, "one value alone", "its density grows without end under a learned scale"),
    ):
        if which:
            raise ValueError(
                f"{data.name or 'the data'}: {_columns(which, data)} hold{'s' * (len(which) == 1)} "
                f"{what} in training, so that {why}; {_without(which, data)}"
            )


def _ends(values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Smallest and largest observed value of each column, float64; inf and -inf where there is
    none.
    """
    if mask is None:
        return values.amin(0).double(), values.amax(0).double()
    inf = torch.tensor(torch.inf, dtype=torch.float64)
    seen = values.double()
    return seen.where(mask, inf).amin(0), seen.where(mask, -inf).amax(0)


def _columns(which: Sequence[int], data: Dataset) -> str:
    names = [f"column {i}" if data.columns is None else repr(data.columns[i]) for i in which]
    return (
        some(names, 20)
        if data.columns is None
        else (f"the column{'s' * (len(which) > 1)} {some(names, 20)}")
    )


def _without(which: Sequence[int], data: Dataset) -> str:
    """How to leave columns out."""
    if data.columns is None or data.name is None:
        return f"leave {'it' if len(which) == 1 else 'them'} out: np.delete(x, {list(which)}, 1)"
    names = [data.columns[i] for i in which]
    option = f"[{','.join(names)}]"
    return (
        f"leave {'it' if len(which) == 1 else 'them'} out: ignore={names} "
        f'(--data.ignore "{option}")'
    )


def check_condition(wanted: int | Shape | None, there: int | Shape | None, name: str) -> None:
    """Refuse data whose y is not what the model is conditioned on.

    Args:
        wanted: by the model: a number of classes, the shape of real values, or None.
        there: in the data, likewise.
        name: of the data.

    Raises:
        ValueError: what y is, and what it would have to be.
    """
    if wanted is None or wanted == there:
        return
    has = "no labels" if there is None else f"{_y(there)} (condition={there!r})"
    raise ValueError(
        f"the model is conditioned on {_y(wanted)}, and {name} has {has}; give data with such a y, "
        "or build the parts for this one"
    )


def _y(condition: int | Shape) -> str:
    return (
        f"{condition} classes"
        if isinstance(condition, int)
        else f"real values of shape {condition}"
    )


def _refuse_columns(likelihood: Likelihood, support: Constraint, name: str) -> NoReturn:
    assert isinstance(likelihood.support, Columns)  # the caller has looked
    outer = likelihood.support.each
    inner = support.each if isinstance(support, Columns) else (support,) * len(outer)
    wrong = [
        i
        for i, (accepted, there) in enumerate(zip(outer, inner, strict=True))
        if not contains(accepted, there)
    ]
    misfits = "; ".join(
        f"column {i} on {describe(inner[i])}, and not on {describe(outer[i])}" for i in wrong[:3]
    )
    raise ValueError(
        f"{type(likelihood).__name__} does not suit {len(wrong)} of the {len(outer)} columns of "
        f"{name}: {misfits}; put them into a group with another likelihood (--likelihood Product "
        "without groups finds them from the data)"
    )


def check_density(is_density: bool) -> None:
    """Refuse to estimate log p(x) with a model whose score is no log-density.

    Raises:
        ValueError: what it is, and what to train instead.
    """
    if not is_density:
        raise ValueError(
            "this model scores x by binary cross-entropy, which is no log-density, so it has no "
            "log p(x); train one with a likelihood (Bernoulli on binarised data, Categorical, "
            "Normal)"
        )


def check_samples(samples: int, name: str = "samples") -> None:
    """Refuse to make no draw.

    Args:
        samples: K, or another number of draws.
        name: of the argument that says it.

    Raises:
        ValueError: fewer than one.

    Example:
        >>> check_samples(0)
        Traceback (most recent call last):
        ValueError: samples is 0: at least 1 draw is needed
    """
    if samples < 1:
        raise ValueError(f"{name} is {samples}: at least 1 draw is needed")


def real_values(x: Any) -> Tensor:
    """X as a tensor of real numbers.

    Raises:
        TypeError: it is none.

    Example:
        >>> real_values([[1, 2]])
        tensor([[1, 2]])
    """
    try:
        value = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"x is {type(x).__name__}: a tensor or an array of numbers (B, *X) is needed"
        ) from None
    if value.is_complex():
        raise TypeError(
            f"x holds complex numbers ({str(value.dtype).removeprefix('torch.')}), and real ones "
            "are needed: make real and imaginary part entries of their own (torch.view_as_real)"
        )
    return value


def check_examples(x: Tensor) -> None:
    """Refuse examples (B, *X) with a value that is NaN or infinite.

    Raises:
        ValueError: which examples, by their numbers.

    Example:
        >>> check_examples(torch.tensor([[0.0], [torch.nan]]))
        Traceback (most recent call last):
        ValueError: x holds NaN or infinite values in 1 of 2 examples (numbers 1); ...
    """
    is_fit = x.isfinite()
    if bool(is_fit.all()):
        return
    rows = (~is_fit.flatten(1).all(1) if x.ndim > 1 else ~is_fit).nonzero().flatten().tolist()
    some = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
    raise ValueError(
        f"x holds NaN or infinite values in {len(rows):,} of {len(x):,} examples (numbers {some}); "
        "where NaN means missing, say so: Context(mask=x.isfinite())"
    )


def check_precision(model: nn.Module, dtype: torch.dtype, what: str, remedy: str) -> None:
    """Refuse x in a precision that would change it, where the data of a model need float64.

    Args:
        model: the model.
        dtype: of x.
        what: how x is called.
        remedy: what would work.

    Raises:
        ValueError: it is narrower, and matters.
    """
    if dtype.is_floating_point and dtype != torch.float64 and far_from_zero(model):
        raise ValueError(
            f"{what} is {str(dtype).removeprefix('torch.')}, and the model was trained on data "
            f"that it would change; {remedy}"
        )


def check_squares(x: Tensor, first: int = 0) -> None:
    """Refuse values whose square is more than float64 holds: no density of them is known.

    Args:
        x: examples, (B, *X), with zero in place of missing entries.
        first: the number of the first of them.

    Raises:
        ValueError: how many examples hold such values, which is the first, and the value.

    Example:
        >>> import torch
        >>> check_squares(torch.tensor([[0.0], [1e200]], dtype=torch.float64))
        Traceback (most recent call last):
        ValueError: example 1 holds 1e+200, whose square is more than float64 holds; correct or ...
    """
    if not x.is_floating_point() or not x.numel():
        return
    largest = x.reshape(len(x), -1).abs().amax(1).double()
    # inf is; what is not a number is refused by the weights that it gives
    rows = (largest > LARGEST).nonzero().flatten().tolist()
    if rows:
        others = f" (and {len(rows) - 1:,} more examples hold such values)" * (len(rows) > 1)
        raise ValueError(
            f"example {first + rows[0]} holds {float(largest[rows[0]]):g}, whose square is more "
            f"than float64 holds{others}; correct or remove it, and all others can be scored"
        )


def check_finite(unfit: Tensor, samples: int) -> None:
    """Refuse importance weights that are not finite; to leave them out would give a number of
    another data set.

    Args:
        unfit: how many log-weights of each example are not finite, (n,).
        samples: how many each has.

    Raises:
        ValueError: how many, and of which examples.
    """
    examples = unfit.nonzero().flatten().tolist()
    if examples:
        first = ", ".join(map(str, examples[:10])) + (", ..." if len(examples) > 10 else "")
        raise ValueError(
            f"{int(unfit.sum()):,} of {unfit.numel() * samples:,} log-weights are not finite, of "
            f"{len(examples):,} of {unfit.numel():,} examples (numbers {first}): the model gives "
            "them no density; look at them, since a mean over the others would be that of other "
            "data"
        )
