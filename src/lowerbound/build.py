"""Configuration -> a model: defaults from the data, types and help from the constructors, and all the shape glue."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch.distributions.constraints import Constraint

from lowerbound.dataset import Dataset
from lowerbound.messages import unknown
from lowerbound.objective import Objective
from lowerbound.parts import (
    GROUPS,
    SLOTS,
    construct,
    describe_factory,
    find_part,
    is_groups,
    is_network,
    part_settings,
)
from lowerbound.settings import Setting, SettingsParser, add_setting
from lowerbound.shapes import Shape, as_shape, numel
from lowerbound.supports import BINARY, COUNTS, Columns, Levels
from lowerbound.vae import VAE

LATENT = 16  # more than the digits need and enough for MNIST by a small network; unused dimensions cost no rate
MANY_LEVELS = 64  # above it one logit a level makes the output layer the whole cost: 784 x 256 logits are 103 M weights


COLUMNS = Setting("columns", list[int], inspect.Parameter.empty, "the columns of the group, counted from 0")


def build_model(config: Mapping[str, Any], x_shape: Shape, trust: Sequence[str] = ()) -> VAE:
    """The model that a complete configuration describes, for data of shape X.

    Raises:
        ValueError: see :func:`find_part`; also what the parts' constructors refuse.
    """
    z_shape = as_shape(config["latent"], "latent")
    roles = ("prior", "posterior", "likelihood")
    parts = {role: construct(role, config[role], trust, x_shape=x_shape, z_shape=z_shape) for role in roles}
    return VAE(**parts)  # type: ignore[arg-type]  # find_part checked the roles


def build_objective(config: Mapping[str, Any], trust: Sequence[str] = ()) -> Objective:
    """The objective that a complete configuration describes."""
    return construct("objective", config["objective"], trust)  # type: ignore[return-value]  # find_part checked the role


def default_parts(support: Constraint | None) -> dict[str, str]:
    """The parts of the default model, by the data's support.

    Binary data get a Bernoulli, a few grey levels a categorical, everything else a normal with one learned scale: the
    weakest assumptions that stay cheap.
    """
    if support == BINARY:
        likelihood = "Bernoulli"
    elif isinstance(support, Levels) and support.count <= MANY_LEVELS:
        likelihood = "Categorical"
    else:
        likelihood = "Normal"
    return {"prior": "StandardNormal", "posterior": "DiagonalNormal", "likelihood": likelihood, "objective": "ELBO"}


def slots(chosen: Mapping[str, str], trust: Sequence[str] = ()) -> Iterator[tuple[str, str, str, list[Setting]]]:
    """Every place of a model that a part fills: its key ("posterior.network"), role, the part's name, and its settings.

    Args:
        chosen: names of parts by key; where a network is not chosen, the part's own default stands.
        trust: see :func:`find_part`.
    """
    pending = [(role, role, chosen[role], dict[str, Any]()) for role in SLOTS if role != "network"]
    while pending:
        key, role, name, given = pending.pop(0)
        part = find_part(role, name, trust)
        own = [Setting(s.name, s.hint, given.get(s.name, s.default), s.help) for s in part_settings(part, role)]
        columns = [COLUMNS] if key.split(".")[-2:-1] == [GROUPS] else []
        yield key, role, name, columns + [s for s in own if not (is_network(s) or is_groups(s))]
        nested = []
        for s in own:
            if is_groups(s):
                names = [n.removeprefix(f"{key}.{s.name}.") for n in chosen if n.startswith(f"{key}.{s.name}.")]
                nested += [
                    (f"{key}.{s.name}.{n}", "likelihood", chosen[f"{key}.{s.name}.{n}"], dict[str, Any]())
                    for n in names
                    if "." not in n
                ]
            if is_network(s):
                default = describe_factory(s.default)
                name = chosen.get(f"{key}.{s.name}", default["part"])
                nested.append((f"{key}.{s.name}", "network", name, default if name == default["part"] else {}))
        pending = nested + pending


def add_model_settings(
    parser: SettingsParser, chosen: Mapping[str, str], support: Constraint | None = None, trust: Sequence[str] = ()
) -> None:
    """Give a parser all settings of the chosen parts: types and defaults from their constructors, help from docstrings.

    Args:
        parser: the parser.
        chosen: names of parts by key, complete for the four roles.
        support: of the data, from which a likelihood's number of levels follows.
        trust: see :func:`~lowerbound.parts.find_part`.
    """
    latent = parser.add_argument_group("latent")
    latent.add_argument("--latent", type=int | list[int], default=LATENT, help="latent size, or shape as in [4,8]")
    for key, role, name, settings in slots(chosen, trust):
        exports = ", ".join(SLOTS[role][1].__all__)
        group = parser.add_argument_group(f"{key}: {name}")
        group.add_argument(f"--{key}.part", type=str, default=name, help=f"the part: {exports}")
        for s in settings:
            add_setting(group, f"{key}.{s.name}", s if s.name != "levels" else replace(s, default=levels_of(support)))


def levels_of(support: Constraint | None) -> int | None:
    """The number of levels of a grid; None for other supports."""
    return support.count if isinstance(support, Levels) else None


def default_likelihood(support: Constraint, event_shape: Shape) -> dict[str, Any]:
    """The default likelihood with what follows from the data's shape.

    The columns of a table have units of their own, and so scales of their own; the pixels of a picture share one.
    """
    part = default_parts(support)["likelihood"]
    return {"part": part} | ({"scale": "per_dimension"} if part == "Normal" and len(event_shape) < 2 else {})


def with_groups(config: Mapping[str, Any], data: Dataset, trust: Sequence[str] = ()) -> dict[str, Any]:
    """A likelihood's configuration with its groups of columns as the data have them.

    Names of columns become their numbers; a group without columns is the column of its name; levels are those of the
    columns; and a likelihood of groups that names none gets one for every kind of column: {0, 1}, levels, counts, numbers.

    Raises:
        ValueError: a column that the data do not have.
    """
    settings = part_settings(find_part("likelihood", config["part"], trust), "likelihood")
    if not any(is_groups(s) for s in settings):
        return dict(config)
    each = data.lies_on.each if isinstance(data.lies_on, Columns) else (data.lies_on,) * numel(data.event_shape)
    groups = config.get(GROUPS) or _groups_of(each)
    if not isinstance(groups, Mapping):
        raise ValueError(f"{GROUPS} must be a mapping of names to likelihoods, not {groups!r}")
    found = {}
    for name, group in groups.items():
        if "part" not in group:
            raise ValueError(f"the group {name} has no likelihood: give its part, as in {name}: {{part: Normal}}")
        own = dict(group)
        given = own.get("columns", [name])
        given = given if isinstance(given, (list, tuple)) else [given]
        own["columns"] = [column if isinstance(column, int) else _number(column, data, name) for column in given]
        supports = {each[column] for column in own["columns"] if 0 <= column < len(each)}
        levels = {own_support.count for own_support in supports if isinstance(own_support, Levels)}
        has_levels = any(
            s.name == "levels" for s in part_settings(find_part("likelihood", own["part"], trust), "likelihood")
        )
        if has_levels and "levels" not in own and len(levels) == len(supports) == 1:
            own["levels"] = levels.pop()
        found[name] = own
    return {**config, GROUPS: found}


def _number(column: object, data: Dataset, group: str) -> int:
    if data.columns is None or column not in data.columns:
        raise ValueError(f"the group {group}: {unknown('column', str(column), data.columns or ())}")
    return data.columns.index(str(column))


def _groups_of(each: Sequence[Constraint]) -> dict[str, Any]:
    """A group for each kind of column, with the likelihood that is at home there."""
    groups: dict[str, Any] = {}
    for i, support in enumerate(each):
        own: dict[str, Any]
        if support == BINARY:
            name, own = "binary", {"part": "Bernoulli"}
        elif isinstance(support, Levels):
            name, own = f"levels_{support.count}", {"part": "Categorical", "levels": support.count}
        elif support is COUNTS:
            name, own = "counts", {"part": "NegativeBinomial"}
        else:
            name, own = "real", {"part": "Normal", "scale": "per_dimension"}
        groups.setdefault(name, {"columns": [], **own})["columns"].append(i)
    return groups


def complete(config: Mapping[str, Any], support: Constraint | None = None, trust: Sequence[str] = ()) -> dict[str, Any]:
    """A model's configuration checked and filled in with defaults; only the model's own keys are taken.

    Raises:
        ValueError: an unknown part or setting, or a value of the wrong type.
    """
    own = expanded({key: config[key] for key in ("latent", *SLOTS) if key in config})
    parser = SettingsParser()
    add_model_settings(parser, default_parts(support) | chosen_parts(own), support, trust)
    return dict(parser.parse_object(own).as_dict())


def expanded(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with ``prior: StandardNormal`` written as ``prior: {part: StandardNormal}``, at any depth.

    Raises:
        ValueError: a role holds neither a name nor a mapping.
    """
    full: dict[str, Any] = {}
    for key, value in config.items():
        if key == GROUPS and isinstance(value, Mapping):
            full[key] = {n: {"part": own} if isinstance(own, str) else expanded(own) for n, own in value.items()}
            continue
        if key in SLOTS and not isinstance(value, (str, Mapping)):
            raise ValueError(f"{key} must be a part's name, or a mapping with part and its settings, not {value!r}")
        if key in SLOTS and isinstance(value, str):
            full[key] = {"part": value}
        else:
            full[key] = expanded(value) if isinstance(value, Mapping) else value
    return full


def chosen_parts(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """The names of the parts that a configuration chooses, by key.

    Example:
        >>> chosen_parts({"posterior": {"part": "DiagonalNormal", "network": {"part": "MLP", "hidden": [8]}}})
        {'posterior': 'DiagonalNormal', 'posterior.network': 'MLP'}
    """
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            if "part" in value:
                found[prefix + key] = value["part"]
            found |= chosen_parts(value, f"{prefix}{key}.")
    return found
