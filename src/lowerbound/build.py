"""Configuration -> a model: defaults from the data, types and help from the constructors, and all the shape glue."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from torch.distributions.constraints import Constraint

from lowerbound.objective import Objective
from lowerbound.parts import SLOTS, construct, describe_factory, find_part, is_network, part_settings
from lowerbound.settings import Setting, SettingsParser, add_setting
from lowerbound.shapes import Shape, as_shape
from lowerbound.supports import BINARY, Levels
from lowerbound.vae import VAE

LATENT = 16  # more than the digits need and enough for MNIST by a small network; unused dimensions cost no rate
Y = "y"  # a condition on whatever the data have beside x
MANY_LEVELS = 64  # above it one logit a level makes the output layer the whole cost: 784 x 256 logits are 103 M weights


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
        yield key, role, name, [s for s in own if not is_network(s)]
        nested = []
        for s in own:
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
            add_setting(group, f"{key}.{s.name}", _from_data(s, support))


def _from_data(setting: Setting, support: Constraint | None) -> Setting:
    """A setting with what the data say: the number of levels, and that a condition may be y, whatever that is."""
    if setting.name == "levels":
        return replace(setting, default=levels_of(support))
    if setting.name == "condition":
        default = Y if setting.default is inspect.Parameter.empty else setting.default
        return replace(setting, hint=setting.hint | Literal["y"], default=default)
    return setting


def conditioned(config: Mapping[str, Any], condition: int | Shape | None, name: str) -> dict[str, Any]:
    """The configuration with ``condition: y`` of each part written as what y of these data is.

    Args:
        config: of a model.
        condition: a number of classes, the shape of real values, or None where there is no y.
        name: of the data.

    Raises:
        ValueError: a part is to be conditioned on y, and there is none.
    """
    found = dict(config)
    for role in ("prior", "posterior", "likelihood"):
        if found[role].get("condition") != Y:
            continue
        if condition is None:
            raise ValueError(
                f"{role}.condition is y, and {name} has no labels; take data that have (--data.labels names those of a "
                "file), a strip of each picture (--data.strip), or leave the condition out"
            )
        found[role] = {**found[role], "condition": condition if isinstance(condition, int) else list(condition)}
    return found


def levels_of(support: Constraint | None) -> int | None:
    """The number of levels of a grid; None for other supports."""
    return support.count if isinstance(support, Levels) else None


def default_likelihood(support: Constraint, event_shape: Shape) -> dict[str, Any]:
    """The default likelihood with what follows from the data's shape.

    The columns of a table have units of their own, and so scales of their own; the pixels of a picture share one.
    """
    part = default_parts(support)["likelihood"]
    return {"part": part} | ({"scale": "per_dimension"} if part == "Normal" and len(event_shape) < 2 else {})


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
