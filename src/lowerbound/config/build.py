"""Configuration -> a model: defaults from the data, types and help from the constructors, and all
the shape glue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from torch.distributions.constraints import Constraint

from lowerbound.config.from_data import default_parts, from_data
from lowerbound.config.parts import (
    GROUPS,
    ROLES,
    PartArgument,
    construct,
    describe,
    describe_factory,
    factory,
    find_part,
    made_by,
    part_argument,
    part_arguments,
    part_settings,
)
from lowerbound.config.settings import REQUIRED, Setting, as_option, resolve, settings_of
from lowerbound.model import LatentSize, Model
from lowerbound.objective import Objective
from lowerbound.shapes import Shape, as_shape

COLUMNS = Setting("columns", list[int], REQUIRED, "the columns of the group, counted from 0")


def build_model(config: Mapping[str, Any], x_shape: Shape, trust: Sequence[str] = ()) -> Model:
    """The model that a complete configuration describes, for data of shape X.

    Raises:
        ValueError: see :func:`find_part`; also what the constructors of the model and its parts
            refuse.
    """
    model, latent = find_part("model", config["model"]["part"], trust), config["latent"]
    settings = {key: value for key, value in config["model"].items() if key != "part"}
    parts: dict[str, Any] = {}
    for argument in part_arguments(model, "model"):
        name, role = argument.name, argument.role
        part_config = config.get(name, {})
        if role == "network":
            parts[name] = factory(part_config, argument.several, trust)
            continue
        shapes = made_by(model).shapes(name, x_shape, latent, settings)
        if argument.several:
            parts[name] = [
                construct(role, part_config[str(i)], trust, **shapes_of_one)
                for i, shapes_of_one in enumerate(shapes, 1)
            ]
        else:
            parts[name] = construct(role, part_config, trust, **shapes)
    return model(**parts, **settings)  # type: ignore[return-value]  # find_part checked the role


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
    """The configuration of a live model: its own settings, and every part by the name of the
    argument that it fills.

    Raises:
        ValueError: see :func:`describe`.
    """
    settings = describe(model, "model")
    arguments = part_arguments(type(model), "model")
    parts = {argument.name: settings.pop(argument.name) for argument in arguments}
    return {
        "model": settings,
        "latent": model.latent,
        **{name: part for name, part in parts.items() if part},
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


def top_level_parts(
    chosen: Mapping[str, str], trust: Sequence[str] = ()
) -> dict[str, PartArgument]:
    """Everything at the top of a configuration that a part fills, by name: the model, what parts
    fill in it, the objective.
    """
    model = find_part("model", chosen.get("model", default_parts(None)["model"]), trust)
    ends = {
        role: PartArgument(Setting(role, ROLES[role].base, REQUIRED, ""), role, several=False)
        for role in ("model", "objective")
    }
    return {
        "model": ends["model"],
        **{argument.name: argument for argument in part_arguments(model, "model")},
        "objective": ends["objective"],
    }


def wiring(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides how many parts a model has, of a configuration: its own settings, and the size
    of its latents.
    """
    settings = {key: value for key, value in config.get("model", {}).items() if key != "part"}
    return settings | {key: config[key] for key in ("latent",) if key in config}


def _count(argument: PartArgument, model: type[Model], wired: Mapping[str, Any]) -> int:
    """How many parts an argument takes that takes several."""
    latent: LatentSize = wired.get("latent", model.default_latent)
    settings = {key: value for key, value in wired.items() if key != "latent"}
    return len(model.shapes(argument.name, (1,), latent, settings))


@dataclass(frozen=True)
class ChosenPart:
    """A part that a configuration chooses, by name or by default.

    Args:
        key: of its place in the configuration, "posterior.network".
        role: of the part.
        name: of the part.
        settings: its own, without those of the parts inside it.
    """

    key: str
    role: str
    name: str
    settings: list[Setting]


def all_parts(
    chosen: Mapping[str, str],
    support: Constraint | None = None,
    wired: Mapping[str, Any] | None = None,
    trust: Sequence[str] = (),
) -> Iterator[ChosenPart]:
    """Every part of a model and its objective, those inside others too.

    Args:
        chosen: names of parts by key; where one is not chosen, the constructor's default stands, or
            that of the role.
        support: of the data, from which the default likelihood follows.
        wired: the model's own settings and the size of its latents, from which follows how many
            parts there are of a kind (:func:`wiring`); defaults where they are not known.
        trust: see :func:`find_part`.
    """
    defaults, model = default_parts(support), model_class(chosen, trust)
    pending: list[tuple[str, PartArgument]] = []
    for name, argument in top_level_parts(chosen, trust).items():
        if argument.several:
            numbers = range(1, _count(argument, model, wired or {}) + 1)
            pending += [(f"{name}.{i}", replace(argument, several=False)) for i in numbers]
        else:
            pending.append((name, argument))
    while pending:
        key, argument = pending.pop(0)
        fixed: dict[str, Any] = {}  # what the default of the argument says of its own part
        name = chosen.get(key, defaults[argument.role])
        if argument.role == "network" and callable(argument.setting.default):
            default = describe_factory(argument.setting.default)
            name = chosen.get(key, default["part"])
            fixed = default if name == default["part"] else {}
        part = find_part(argument.role, name, trust)
        settings = [
            replace(setting, default=fixed.get(setting.name, setting.default))
            for setting in part_settings(part, argument.role)
            if part_argument(setting) is None
        ]
        is_group = argument.setting is COLUMNS
        yield ChosenPart(key, argument.role, name, [COLUMNS] * is_group + settings)
        if argument.role != "model":  # what fills a model stands beside it
            inner = part_arguments(part, argument.role)
            groups = [
                (group, PartArgument(COLUMNS, "likelihood", several=False))
                for named in inner
                if named.named
                for group in _directly_below(f"{key}.{named.name}", chosen)
            ]
            plain = [(f"{key}.{one.name}", one) for one in inner if not one.named]
            pending = [*groups, *plain, *pending]


def _directly_below(key: str, chosen: Mapping[str, str]) -> list[str]:
    """The keys one step below a key."""
    return [each for each in chosen if each.rpartition(".")[0] == key]


def model_options(
    chosen: Mapping[str, str],
    support: Constraint | None = None,
    wired: Mapping[str, Any] | None = None,
    trust: Sequence[str] = (),
) -> dict[str, list[Setting]]:
    """All settings of the chosen parts as options, by the titles of their groups: types and
    defaults from their constructors, help from docstrings.

    Args:
        chosen: names of parts by key.
        support: of the data, from which the default likelihood and the number of its levels follow.
        wired: see :func:`all_parts`.
        trust: see :func:`~lowerbound.config.parts.find_part`.
    """
    text = (
        "latent size, or shape as in [4,8]; in a model of several, one for each, as in [32,[4,8],2]"
    )
    default = model_class(chosen, trust).default_latent
    groups = {"latent": [Setting("latent", LatentSize, default, text)]}
    for part in all_parts(chosen, support, wired, trust):
        exports = ", ".join(ROLES[part.role].package.__all__)
        groups[f"{part.key}: {part.name}"] = [
            Setting(f"{part.key}.part", str, part.name, f"the part: {exports}"),
            *(as_option(from_data(s, support), f"{part.key}.") for s in part.settings),
        ]
    return groups


def complete(
    config: Mapping[str, Any], support: Constraint | None = None, trust: Sequence[str] = ()
) -> dict[str, Any]:
    """A model's configuration checked and filled in with defaults; only the model's own keys are
    taken.

    Raises:
        ValueError: an unknown part or setting, or a value of the wrong type.
    """
    full = expanded(config, trust=trust)
    chosen = chosen_parts(full)
    of_model = {
        key: full[key] for key in ("latent", *top_level_parts(chosen, trust)) if key in full
    }
    groups = model_options(chosen_parts(of_model), support, wiring(of_model), trust)
    return resolve(chain.from_iterable(groups.values()), of_model)


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
    for name, argument in top_level_parts(chosen, trust).items():
        if name not in full:
            continue
        if argument.several:
            numbered = _numbered(name, full[name], _count(argument, made, wired))
            full[name] = {i: _named(f"{name}.{i}", part) for i, part in numbered.items()}
        else:
            full[name] = _named(name, full[name])
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
    return {str(i): part for i, part in enumerate(value, 1)}


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
            full[key] = {name: _named(name, group) for name, group in value.items()}
        elif key in ROLES:
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
            full[key] = [listed(part) for part in value.values()]
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
    chosen: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            if "part" in value:
                chosen[prefix + key] = value["part"]
            chosen |= chosen_parts(value, f"{prefix}{key}.")
    return chosen
