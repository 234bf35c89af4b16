"""Parts by name: from a configuration to objects, and from objects to the configuration.

A configuration names parts and their settings, and a part's constructor signature is its
configuration:

    posterior:
      part: DiagonalNormal
      network: {part: MLP, hidden: [512], activation: ReLU}

Files name parts, never code. A bare name is looked up among lowerbound's own exports, before
anything is imported; a dotted path is followed only into a package that the caller trusts by name;
and what is found must be of the role that it is asked for.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
from torch import nn

from lowerbound import likelihoods, models, networks, objectives, posteriors, priors
from lowerbound.config.settings import Setting, settings_of
from lowerbound.model import Model
from lowerbound.objective import Objective
from lowerbound.roles import Group, Groups, Likelihood, Posterior, Prior
from lowerbound.shapes import NetworkFactory, Shape
from lowerbound.utils.messages import first_line, unknown


class Role(NamedTuple):
    """What a part can be in a configuration: the class that it is of, and the package that exports
    lowerbound's own.
    """

    base: type[nn.Module]
    package: ModuleType


ROLES: Mapping[str, Role] = {
    "model": Role(Model, models),
    "prior": Role(Prior, priors),
    "posterior": Role(Posterior, posteriors),
    "likelihood": Role(Likelihood, likelihoods),
    "objective": Role(Objective, objectives),
    "network": Role(nn.Module, networks),
}
"""The roles by their keys in a configuration."""

# the setting that holds parts by names of the user's own, as a configuration's key
GROUPS = "groups"


@dataclass(frozen=True)
class PartArgument:
    """An argument of a constructor that a part fills.

    Args:
        setting: the argument.
        role: of the part.
        several: whether it takes a sequence of parts.
        named: whether it takes groups of columns, by names of the user's own, with a part for each.
    """

    setting: Setting
    role: str
    several: bool
    named: bool = False

    @property
    def name(self) -> str:
        """Of the argument."""
        return self.setting.name


def part_argument(setting: Setting) -> PartArgument | None:
    """What an argument's annotation says: that a part of a role fills it, or several, or, by None,
    that it is a plain setting.

    Example:
        >>> (
        ...     part_argument(Setting("prior", Prior, None, "")).role,
        ...     part_argument(Setting("conditionals", Sequence[Posterior], (), "")).several,
        ... )
        ('prior', True)
        >>> part_argument(Setting("components", int, 500, "")) is None
        True
    """
    if setting.hint == Groups:
        return PartArgument(setting, "likelihood", several=False, named=True)
    several = get_origin(setting.hint) is Sequence
    hint = get_args(setting.hint)[0] if several else setting.hint
    if hint == NetworkFactory:
        return PartArgument(setting, "network", several)
    if inspect.isclass(hint) and issubclass(hint, nn.Module):
        roles = [
            key
            for key, role in ROLES.items()
            if role.base is not nn.Module and issubclass(hint, role.base)
        ]
        return PartArgument(setting, roles[0], several) if roles else None
    return None


def part_arguments(part: Callable[..., Any], role: str) -> list[PartArgument]:
    """The arguments of a part, a model above all, that parts fill."""
    arguments = map(part_argument, part_settings(part, role))
    return [argument for argument in arguments if argument is not None]


def made_by(part: Callable[..., Any]) -> Any:
    """The class of what a class or an annotated function makes."""
    return (
        part
        if inspect.isclass(part)
        else get_type_hints(part).get("return")
        if inspect.isfunction(part)
        else None
    )


def part_settings(part: Callable[..., Any], role: str) -> list[Setting]:
    """The arguments of a part that a configuration says: all but the shapes, which the caller
    supplies.

    A network's shapes are its first two arguments, by position; another part's are named ..._shape.
    """
    settings = settings_of(part)
    return (
        settings[2:]
        if role == "network"
        else [s for s in settings if not s.name.endswith("_shape")]
    )


def find_part(role: str, name: object, trust: Sequence[str] = ()) -> Callable[..., nn.Module]:
    """The part of that name for a role.

    Args:
        role: one of :data:`ROLES`.
        name: one of lowerbound's exports, or a dotted path into a trusted package.
        trust: packages that may be imported.

    Raises:
        ValueError: an unknown name, a path into a package that is not trusted, or an object of
            another role.
    """
    base, package = ROLES[role]
    exports: list[str] = package.__all__
    if isinstance(name, str) and name in exports:
        return getattr(package, name)  # type: ignore[no-any-return]
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", name):
        raise ValueError(unknown(role, str(name), exports))
    root = name.split(".")[0]
    if root not in trust:
        raise ValueError(
            f"{role} {name!r} is code from the package {root!r}, which is not trusted, so nothing "
            f"was imported; use one of {', '.join(exports)}, or, if you trust that package, "
            f"--trust {root} (in Python trust=[{root!r}])"
        )
    module, attribute = name.rsplit(".", 1)
    try:
        part = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{role} {name!r} was not found: {first_line(error)}") from None
    made = made_by(part)
    if not (inspect.isclass(made) and issubclass(made, base)):
        raise ValueError(
            f"{name!r} does not make a {base.__name__}, which the role of {role} needs (a function "
            f"says what it makes: -> {base.__name__})"
        )
    return part  # type: ignore[no-any-return]


def describe(part: nn.Module, role: str) -> dict[str, Any]:
    """The configuration of a live part: its name and every setting, complete.

    Raises:
        ValueError: it was made from something that no file can name (a lambda, a local class, a
            module object).

    Example:
        >>> from lowerbound.posteriors import DiagonalNormal
        >>> describe(DiagonalNormal((4,), (2,)), "posterior") | {
        ...     "network": "as describe_factory has it"
        ... }
        {'part': 'DiagonalNormal', 'network': 'as describe_factory has it', 'condition': None}
    """
    settings, attributes = part_settings(type(part), role), dir(part)
    if missing := [s.name for s in settings if s.name not in attributes]:
        raise ValueError(
            f"{type(part).__name__} does not keep its argument {missing[0]!r}, so it cannot be "
            f"saved; in its constructor, set self.{missing[0]} = {missing[0]}"
        )
    return {"part": _name(type(part), role)} | {
        s.name: _described(getattr(part, s.name), part_argument(s)) for s in settings
    }


def _described(value: Any, argument: PartArgument | None) -> Any:
    """The value of an argument as a configuration holds it; of a plain setting, where no part fills
    it.
    """
    if argument is None:
        if isinstance(value, (tuple, list)):
            return [_described(item, None) for item in value]
        return value.item() if isinstance(value, np.generic) else value
    if argument.several:
        parts = value.values() if isinstance(value, (Mapping, nn.ModuleDict)) else value
        each = replace(argument, several=False)
        return {str(i): _described(part, each) for i, part in enumerate(parts, 1)}
    if argument.named:
        return {
            name: {
                "columns": [int(c) for c in group.columns],
                **describe_factory(group.likelihood, argument.role),
            }
            for name, group in value.items()
        }
    return describe_factory(value) if argument.role == "network" else describe(value, argument.role)


def describe_factory(factory: Any, role: str = "network") -> dict[str, Any]:
    """The configuration of what makes a network or a part: a class, a function, or a partial of one
    that fixes settings.

    Raises:
        ValueError: see :func:`describe`.

    Example:
        >>> from lowerbound.networks import MLP
        >>> describe_factory(functools.partial(MLP, hidden=(8,)))
        {'part': 'MLP', 'hidden': [8], 'activation': 'ReLU', 'batch_norm': False}
    """
    fixed: dict[str, Any] = {}
    if isinstance(factory, functools.partial):
        if factory.args:
            raise ValueError(
                f"{factory} fixes arguments by position; fix them by name, so that they can be "
                "saved"
            )
        factory, fixed = factory.func, factory.keywords
    settings = {
        s.name: _described(fixed.get(s.name, s.default), part_argument(s))
        for s in part_settings(factory, role)
    }
    return {"part": _name(factory, role), **settings}


def _name(made_by: Any, role: str) -> str:
    package = ROLES[role].package
    name = getattr(made_by, "__qualname__", "")
    if getattr(package, name, None) is made_by and name in package.__all__:
        return str(name)
    if not re.fullmatch(r"\w+", name):  # <lambda>, f.<locals>.g, an object
        raise ValueError(
            f"the {role} {name or made_by!r} has no name that a file could hold; define it at the "
            "top level of a module, so that loading can find it"
        )
    return f"{made_by.__module__}.{name}"


def foreign_packages(config: Mapping[str, Any]) -> set[str]:
    """The packages outside lowerbound whose code a configuration names, which loading will ask to
    trust.
    """
    packages = {config["part"].split(".")[0]} if "." in str(config.get("part", "")) else set()
    inner = [
        item
        for value in config.values()
        for item in (value if isinstance(value, list) else [value])
    ]
    return packages.union(*(foreign_packages(item) for item in inner if isinstance(item, Mapping)))


def construct(
    role: str, config: Mapping[str, Any], trust: Sequence[str] = (), **shapes: Shape
) -> nn.Module:
    """The part that a complete configuration describes.

    Args:
        role: one of :data:`ROLES`.
        config: its name and settings.
        trust: packages that may be imported.
        shapes: what a part may ask for; its constructor is given those that it names.

    Raises:
        ValueError: see :func:`find_part`; also what the part's constructor refuses.
    """
    part = find_part(role, config["part"], trust)
    accepted = {s.name for s in settings_of(part)}
    accepted_shapes = {name: shape for name, shape in shapes.items() if name in accepted}
    return part(**accepted_shapes, **_arguments(part, role, config, trust))


def _arguments(
    part: Callable[..., Any], role: str, config: Mapping[str, Any], trust: Sequence[str]
) -> dict[str, Any]:
    """The arguments of a part's constructor: its settings, and what makes the parts inside it."""
    arguments = {key: value for key, value in config.items() if key != "part"}
    for argument in part_arguments(part, role):
        inner = config.get(argument.name)
        if inner is not None and argument.named:
            arguments[argument.name] = {name: _group(one, trust) for name, one in inner.items()}
        elif inner is not None and argument.role == "network":
            arguments[argument.name] = factory(inner, argument.several, trust)
    return arguments


def _group(config: Mapping[str, Any], trust: Sequence[str]) -> Group:
    likelihood = {key: value for key, value in config.items() if key != "columns"}
    return Group(tuple(config["columns"]), factory(likelihood, False, trust, "likelihood"))


def factory(
    config: Mapping[str, Any], several: bool, trust: Sequence[str], role: str = "network"
) -> Any:
    """What makes the network, or part of another role, that a complete configuration describes, or
    several in order.

    Raises:
        ValueError: see :func:`find_part`.
    """
    if several:
        return tuple(factory(config[str(i)], False, trust, role) for i in range(1, len(config) + 1))
    part = find_part(role, config["part"], trust)
    arguments = _arguments(part, role, config, trust)
    return functools.partial(part, **arguments) if arguments else part
