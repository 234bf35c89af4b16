"""What of a configuration follows from the data: the default parts, the number of levels, what y
is, and the groups of a table's columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from torch.distributions.constraints import Constraint

from lowerbound.config.parts import GROUPS, find_part, part_arguments, part_settings
from lowerbound.config.settings import REQUIRED, Setting
from lowerbound.data.dataset import Dataset
from lowerbound.shapes import Shape, numel
from lowerbound.supports import BINARY, COUNTS, Columns, Levels
from lowerbound.utils.messages import some, unknown

Y = "y"  # a condition on whatever the data have beside x
# above it one logit a level makes the output layer the whole cost: 784 x 256 logits are 103 M
# weights
MANY_LEVELS = 64


def default_parts(support: Constraint | None) -> dict[str, str]:
    """The part of each role where none is chosen, by the data's support.

    Binary data get a Bernoulli, a few grey levels a categorical, everything else a normal with one
    learned scale: the weakest assumptions that stay cheap.
    """
    if support == BINARY:
        likelihood = "Bernoulli"
    elif isinstance(support, Levels) and support.count <= MANY_LEVELS:
        likelihood = "Categorical"
    else:
        likelihood = "Normal"
    return {
        "model": "VAE",
        "prior": "StandardNormal",
        "posterior": "DiagonalNormal",
        "likelihood": likelihood,
        "objective": "ELBO",
        "network": "MLP",
    }


def from_data(setting: Setting, support: Constraint | None) -> Setting:
    """A setting with what the data say: the number of levels, and that a condition may be y,
    whatever that is.
    """
    if setting.name == "levels":
        return replace(setting, default=levels_of(support))
    if setting.name == "condition":
        default = Y if setting.default is REQUIRED else setting.default
        return replace(setting, hint=setting.hint | Literal["y"], default=default)
    return setting


def conditioned(
    config: Mapping[str, Any], condition: int | Shape | None, name: str, prefix: str = ""
) -> dict[str, Any]:
    """The configuration with ``condition: y`` of each part written as what y of these data is.

    Args:
        config: of a model.
        condition: a number of classes, the shape of real values, or None where there is no y.
        name: of the data.
        prefix: of its keys, for messages.

    Raises:
        ValueError: a part is to be conditioned on y, and there is none.
    """
    full: dict[str, Any] = {}
    for key, value in config.items():
        full[key] = _with_y(value, condition, name, f"{prefix}{key}.")
        if key == "condition" and value == Y:
            if condition is None:
                raise ValueError(
                    f"{prefix}condition is y, and {name} has no labels; take data that have "
                    "(--data.labels names those of a file), a strip of each picture "
                    "(--data.strip), or leave the condition out"
                )
            full[key] = condition if isinstance(condition, int) else list(condition)
    return full


def _with_y(value: Any, condition: int | Shape | None, name: str, prefix: str) -> Any:
    if isinstance(value, Mapping):
        return conditioned(value, condition, name, prefix)
    return (
        [_with_y(item, condition, name, prefix) for item in value]
        if isinstance(value, list)
        else value
    )


def levels_of(support: Constraint | None) -> int | None:
    """The number of levels of a grid; None for other supports."""
    return support.count if isinstance(support, Levels) else None


def default_likelihood(data: Dataset) -> dict[str, Any]:
    """The default likelihood with what follows from the data's shape.

    The columns of a table have units of their own, and so scales of their own; the pixels of a
    picture share one. Columns of classes need probabilities of their labels, so that a table with
    such columns gets a Product: each kind of column with a likelihood of its own.

    Example:
        >>> import numpy as np
        >>> import lowerbound as lb
        >>> default_likelihood(lb.data.from_arrays(np.random.default_rng(0).normal(size=(20, 3))))
        {'part': 'Normal', 'scale': 'per_dimension'}
    """
    if data.categories:
        return {"part": "Product"}
    part = default_parts(data.support)["likelihood"]
    return {"part": part} | (
        {"scale": "per_dimension"} if part == "Normal" and len(data.event_shape) < 2 else {}
    )


def reason_for(likelihood: Mapping[str, Any], data: Dataset) -> str | None:
    """Why a likelihood was chosen by default, where it is not the usual one; None otherwise."""
    if likelihood.get("part") != "Product" or not data.categories:
        return None
    are = "holds classes" if len(data.categories) == 1 else "hold classes"
    return f"likelihood: Product, since {some(list(data.categories), 20)} {are}"


def with_groups(
    config: Mapping[str, Any], data: Dataset, trust: Sequence[str] = ()
) -> dict[str, Any]:
    """A likelihood's configuration with its groups of columns as the data have them.

    Names of columns become their numbers; a group without columns is the column of its name; levels
    are those of the columns; and a likelihood of groups that names none gets one for every kind of
    column: {0, 1}, levels, counts, numbers.

    Raises:
        ValueError: a column that the data do not have.
    """
    part = find_part("likelihood", config["part"], trust)
    if not any(argument.named for argument in part_arguments(part, "likelihood")):
        return dict(config)
    each = (
        data.lies_on.each
        if isinstance(data.lies_on, Columns)
        else (data.lies_on,) * numel(data.event_shape)
    )
    groups = config.get(GROUPS) or _groups_of(each)
    if not isinstance(groups, Mapping):
        raise ValueError(f"{GROUPS} must be a mapping of names to likelihoods, not {groups!r}")
    full: dict[str, Any] = {}
    for name, group in groups.items():
        if "part" not in group:
            raise ValueError(
                f"the group {name} has no likelihood: give its part, as in {name}: {{part: Normal}}"
            )
        named = group.get("columns", [name])
        named = named if isinstance(named, (list, tuple)) else [named]
        columns = [
            column if isinstance(column, int) else _number(column, data, name) for column in named
        ]
        full[name] = {**group, "columns": columns}
        supports = {each[column] for column in columns if 0 <= column < len(each)}
        levels = {levels_of(support) for support in supports}
        has_levels = any(
            s.name == "levels"
            for s in part_settings(find_part("likelihood", group["part"], trust), "likelihood")
        )
        if has_levels and "levels" not in group and len(levels) == 1 and levels != {None}:
            full[name]["levels"] = levels.pop()
    return {**config, GROUPS: full}


def _number(column: object, data: Dataset, group: str) -> int:
    if data.columns is None or column not in data.columns:
        raise ValueError(f"the group {group}: {unknown('column', str(column), data.columns or ())}")
    return data.columns.index(str(column))


def _groups_of(each: Sequence[Constraint]) -> dict[str, Any]:
    """A group for each kind of column, with the likelihood that is at home there."""
    groups: dict[str, Any] = {}
    likelihood: dict[str, Any]
    for i, support in enumerate(each):
        if support == BINARY:
            name, likelihood = "binary", {"part": "Bernoulli"}
        elif isinstance(support, Levels):
            name = f"levels_{support.count}"
            likelihood = {"part": "Categorical", "levels": support.count}
        elif support is COUNTS:
            name, likelihood = "counts", {"part": "NegativeBinomial"}
        else:
            name, likelihood = "real", {"part": "Normal", "scale": "per_dimension"}
        groups.setdefault(name, {"columns": [], **likelihood})["columns"].append(i)
    return groups
