"""Configuration -> a model: defaults from the data, types and help from the constructors, and all
the shape glue.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from inspect import Parameter
from typing import Any, Literal

from torch.distributions.constraints import Constraint

from lowerbound.config.parts import (
    GROUPS,
    SLOTS,
    Slot,
    construct,
    describe,
    describe_factory,
    factory,
    find_part,
    made_by,
    part_settings,
    slot,
    slots_of,
)
from lowerbound.config.settings import Setting, SettingsParser, add_setting, settings_of
from lowerbound.data.dataset import Dataset
from lowerbound.model import LatentSize, Model
from lowerbound.objective import Objective
from lowerbound.shapes import Shape, as_shape, numel
from lowerbound.supports import BINARY, COUNTS, Columns, Levels
from lowerbound.utils.messages import unknown

Y = "y"  # a condition on whatever the data have beside x
# above it one logit a level makes the output layer the whole cost: 784 x 256 logits are 103 M
# weights
MANY_LEVELS = 64

COLUMNS = Setting("columns", list[int], Parameter.empty, "the columns of the group, counted from 0")


def build_model(config: Mapping[str, Any], x_shape: Shape, trust: Sequence[str] = ()) -> Model:
    """The model that a complete configuration describes, for data of shape X.

    Raises:
        ValueError: see :func:`find_part`; also what the constructors of the model and its parts
            refuse.
    """
    model, latent = find_part("model", config["model"]["part"], trust), config["latent"]
    own = {key: value for key, value in config["model"].items() if key != "part"}
    parts: dict[str, Any] = {}
    for place in slots_of(model, "model"):
        told = config.get(place.name, {})
        if place.role == "network":
            parts[place.name] = factory(told, place.several, trust)
            continue
        shapes = made_by(model).shapes(place.name, x_shape, latent, own)
        if place.several:
            each = enumerate(shapes, 1)
            parts[place.name] = [
                construct(place.role, told[str(i)], trust, **own_shapes) for i, own_shapes in each
            ]
        else:
            parts[place.name] = construct(place.role, told, trust, **shapes)
    return model(**parts, **own)  # type: ignore[return-value]  # find_part checked the role


def build_objective(config: Mapping[str, Any], trust: Sequence[str] = ()) -> Objective:
    """The objective that a complete configuration describes; one that names z_shape (a critic's) is
    given the latent's.
    """
    part = find_part("objective", config["objective"]["part"], trust)
    asks = "z_shape" in {setting.name for setting in settings_of(part)}
    shapes = {"z_shape": as_shape(config["latent"], "latent")} if asks else {}
    # find_part checked the role
    return construct("objective", config["objective"], trust, **shapes)  # type: ignore[return-value]


def describe_model(model: Model) -> dict[str, Any]:
    """The configuration of a live model: its own settings, and every part by the name of its slot.

    Raises:
        ValueError: see :func:`describe`.
    """
    whole = describe(model, "model")
    parts = {place.name: whole.pop(place.name) for place in slots_of(type(model), "model")}
    return {
        "model": whole,
        "latent": model.latent,
        **{name: own for name, own in parts.items() if own},
    }


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


def model_class(chosen: Mapping[str, str], trust: Sequence[str] = ()) -> type[Model]:
    """The class of the model that a configuration chooses.

    Raises:
        ValueError: see :func:`find_part`.
    """
    made: type[Model] = made_by(
        find_part("model", chosen.get("model", default_parts(None)["model"]), trust)
    )
    return made


def places(chosen: Mapping[str, str], trust: Sequence[str] = ()) -> dict[str, Slot]:
    """Everything at the top of a configuration that a part fills, by name: the model, what its
    parts fill, the objective.
    """
    model = find_part("model", chosen.get("model", default_parts(None)["model"]), trust)
    ends = {
        role: Slot(Setting(role, SLOTS[role][0], Parameter.empty, ""), role, False)
        for role in ("model", "objective")
    }
    return {
        "model": ends["model"],
        **{own.name: own for own in slots_of(model, "model")},
        "objective": ends["objective"],
    }


def wiring(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides how many parts a model has, of a configuration: its own settings, and the size
    of its latents.
    """
    own = {key: value for key, value in config.get("model", {}).items() if key != "part"}
    return own | {key: config[key] for key in ("latent",) if key in config}


def _count(place: Slot, model: type[Model], wired: Mapping[str, Any]) -> int:
    """How many parts a slot for several holds."""
    latent: LatentSize = wired.get("latent", model.default_latent)
    return len(
        model.shapes(
            place.name, (1,), latent, {key: own for key, own in wired.items() if key != "latent"}
        )
    )


def slots(
    chosen: Mapping[str, str],
    support: Constraint | None = None,
    wired: Mapping[str, Any] | None = None,
    trust: Sequence[str] = (),
) -> Iterator[tuple[str, str, str, list[Setting]]]:
    """Every place of a model that a part fills: its key ("posterior.network"), role, the part's
    name, and its settings.

    Args:
        chosen: names of parts by key; where one is not chosen, the constructor's default stands, or
            that of the role.
        support: of the data, from which the default likelihood follows.
        wired: the model's own settings and the size of its latents, from which follows how many
            parts there are of a kind (:func:`wiring`); defaults where they are not known.
        trust: see :func:`find_part`.
    """
    defaults, model = default_parts(support), model_class(chosen, trust)
    pending: list[
        tuple[str, Slot, bool]
    ] = []  # with whether it is one of the groups of a part, which have columns
    for name, place in places(chosen, trust).items():
        if place.several:
            count = _count(place, model, wired or {})
            pending += [
                (f"{name}.{i}", replace(place, several=False), False) for i in range(1, count + 1)
            ]
        else:
            pending.append((name, place, False))
    while pending:
        key, place, is_group = pending.pop(0)
        given: dict[str, Any] = {}
        name = chosen.get(key, defaults[place.role])
        if place.role == "network" and callable(place.setting.default):
            default = describe_factory(place.setting.default)
            name = chosen.get(key, default["part"])
            given = default if name == default["part"] else {}
        part = find_part(place.role, name, trust)
        own = [
            Setting(s.name, s.hint, given.get(s.name, s.default), s.help)
            for s in part_settings(part, place.role)
        ]
        columns = [COLUMNS] if is_group else []
        yield key, place.role, name, columns + [s for s in own if slot(s) is None]
        if place.role != "model":  # what fills a model stands beside it
            inner = slots_of(part, place.role)
            plain = [(f"{key}.{own.name}", own, False) for own in inner if not own.named]
            groups = [f"{key}.{own.name}." for own in inner if own.named]
            named = [
                each
                for start in groups
                for each in chosen
                if each.startswith(start) and "." not in each[len(start) :]
            ]
            pending = [
                *((each, Slot(COLUMNS, "likelihood", False), True) for each in named),
                *plain,
                *pending,
            ]


def add_model_settings(
    parser: SettingsParser,
    chosen: Mapping[str, str],
    support: Constraint | None = None,
    wired: Mapping[str, Any] | None = None,
    trust: Sequence[str] = (),
) -> None:
    """Give a parser all settings of the chosen parts: types and defaults from their constructors,
    help from docstrings.

    Args:
        parser: the parser.
        chosen: names of parts by key.
        support: of the data, from which the default likelihood and the number of its levels follow.
        wired: see :func:`slots`.
        trust: see :func:`~lowerbound.config.parts.find_part`.
    """
    group = parser.add_argument_group("latent")
    group.add_argument(
        "--latent",
        type=int | list[int | list[int]],
        default=model_class(chosen, trust).default_latent,
        help="latent size, or shape as in [4,8]; in a model of several, one for each, as in "
        "[32,[4,8],2]",
    )
    for key, role, name, settings in slots(chosen, support, wired, trust):
        exports = ", ".join(SLOTS[role][1].__all__)
        group = parser.add_argument_group(f"{key}: {name}")
        group.add_argument(f"--{key}.part", type=str, default=name, help=f"the part: {exports}")
        for s in settings:
            add_setting(group, f"{key}.{s.name}", _from_data(s, support))


def _from_data(setting: Setting, support: Constraint | None) -> Setting:
    """A setting with what the data say: the number of levels, and that a condition may be y,
    whatever that is.
    """
    if setting.name == "levels":
        return replace(setting, default=levels_of(support))
    if setting.name == "condition":
        default = Y if setting.default is inspect.Parameter.empty else setting.default
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
    found: dict[str, Any] = {}
    for key, value in config.items():
        found[key] = _with_y(value, condition, name, f"{prefix}{key}.")
        if key == "condition" and value == Y:
            if condition is None:
                raise ValueError(
                    f"{prefix}condition is y, and {name} has no labels; take data that have "
                    "(--data.labels names those of a file), a strip of each picture "
                    "(--data.strip), or leave the condition out"
                )
            found[key] = condition if isinstance(condition, int) else list(condition)
    return found


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


def default_likelihood(support: Constraint, event_shape: Shape) -> dict[str, Any]:
    """The default likelihood with what follows from the data's shape.

    The columns of a table have units of their own, and so scales of their own; the pixels of a
    picture share one.
    """
    part = default_parts(support)["likelihood"]
    return {"part": part} | (
        {"scale": "per_dimension"} if part == "Normal" and len(event_shape) < 2 else {}
    )


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
    if not any(place.named for place in slots_of(part, "likelihood")):
        return dict(config)
    each = (
        data.lies_on.each
        if isinstance(data.lies_on, Columns)
        else (data.lies_on,) * numel(data.event_shape)
    )
    groups = config.get(GROUPS) or _groups_of(each)
    if not isinstance(groups, Mapping):
        raise ValueError(f"{GROUPS} must be a mapping of names to likelihoods, not {groups!r}")
    found = {}
    for name, group in groups.items():
        if "part" not in group:
            raise ValueError(
                f"the group {name} has no likelihood: give its part, as in {name}: {{part: Normal}}"
            )
        own = dict(group)
        given = own.get("columns", [name])
        given = given if isinstance(given, (list, tuple)) else [given]
        own["columns"] = [
            column if isinstance(column, int) else _number(column, data, name) for column in given
        ]
        supports = {each[column] for column in own["columns"] if 0 <= column < len(each)}
        levels = {own_support.count for own_support in supports if isinstance(own_support, Levels)}
        has_levels = any(
            s.name == "levels"
            for s in part_settings(find_part("likelihood", own["part"], trust), "likelihood")
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


def complete(
    config: Mapping[str, Any], support: Constraint | None = None, trust: Sequence[str] = ()
) -> dict[str, Any]:
    """A model's configuration checked and filled in with defaults; only the model's own keys are
    taken.

    Raises:
        ValueError: an unknown part or setting, or a value of the wrong type.
    """
    own = expanded(config, trust=trust)
    chosen = chosen_parts(own)
    own = {key: own[key] for key in ("latent", *places(chosen, trust)) if key in own}
    parser = SettingsParser()
    add_model_settings(parser, chosen_parts(own), support, wiring(own), trust)
    return dict(parser.parse_object(own).as_dict())


def expanded(
    config: Mapping[str, Any], wired: Mapping[str, Any] | None = None, trust: Sequence[str] = ()
) -> dict[str, Any]:
    """The configuration with every part as a mapping with its name,
    ``prior: {part: StandardNormal}``, at any depth.

    Where a model has several parts of a kind, they are written as a list, or as one for all of
    them; here they are numbered.

    Args:
        config: as written.
        wired: what differs from the configuration's own settings of the model and size of the
            latents.
        trust: see :func:`find_part`.

    Raises:
        ValueError: a role holds neither a name nor a mapping, or there are too many or too few
            parts of a kind.
    """
    full = _expanded(config)
    chosen = chosen_parts(full)
    made, wired = model_class(chosen, trust), wiring(full) | dict(wired or {})
    for name, place in places(chosen, trust).items():
        if name not in full:
            continue
        if place.several:
            full[name] = _numbered(name, full[name], _count(place, made, wired))
        full[name] = _named(name, full[name]) if not place.several else {
            i: _named(f"{name}.{i}", own) for i, own in full[name].items()
        }  # fmt: skip
    return full


def _numbered(name: str, value: Any, count: int) -> dict[str, Any]:
    if isinstance(value, Mapping) and all(str(key).isdigit() for key in value) and value:
        value = [value[key] for key in value]
    if not isinstance(value, list):
        return {str(i): value for i in range(1, count + 1)}
    if len(value) != count:
        raise ValueError(
            f"{name} holds {len(value)} parts, and with these latents there are {count}"
        )
    return {str(i): own for i, own in enumerate(value, 1)}


def _named(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, (str, Mapping)):
        raise ValueError(
            f"{name} must be a part's name, or a mapping with part and its settings, not {value!r}"
        )
    return {"part": value} if isinstance(value, str) else _expanded(value)


def _expanded(config: Mapping[str, Any]) -> dict[str, Any]:
    full: dict[str, Any] = {}
    for key, value in config.items():
        if key == GROUPS and isinstance(value, Mapping):
            full[key] = {name: _named(name, own) for name, own in value.items()}
        elif key in SLOTS:
            full[key] = _named(key, value)
        else:
            full[key] = _expanded(value) if isinstance(value, Mapping) else value
    return full


def listed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as it is written: numbered parts as a list."""
    full: dict[str, Any] = {}
    for key, value in config.items():
        is_numbered = (
            isinstance(value, Mapping) and bool(value) and all(name.isdigit() for name in value)
        )
        if is_numbered:
            full[key] = [listed(own) for own in value.values()]
        else:
            full[key] = listed(value) if isinstance(value, Mapping) else value
    return full


def chosen_parts(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """The names of the parts that a configuration chooses, by key.

    Example:
        >>> chosen_parts(
        ...     {"posterior": {"part": "DiagonalNormal", "network": {"part": "MLP", "hidden": [8]}}}
        ... )
        {'posterior': 'DiagonalNormal', 'posterior.network': 'MLP'}
    """
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            if "part" in value:
                found[prefix + key] = value["part"]
            found |= chosen_parts(value, f"{prefix}{key}.")
    return found
