"""Settings: the arguments of constructors and functions as a configuration and as command-line
options.

A default exists once, in a signature, and a setting is explained once, in a docstring; this module
reads both. It also reads values: a setting's type says what a value in a file, or a text on the
command line, may be.
"""

from __future__ import annotations

import copy
import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from lowerbound.utils.messages import first_line

REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Setting:
    """One argument, or one option of a command.

    Args:
        name: of the argument; as an option with all that it lies in, "posterior.network.hidden".
        hint: its type.
        default: :data:`REQUIRED` where there is none.
        help: what the docstring says of it.
    """

    name: str
    hint: Any
    default: Any
    help: str

    @property
    def option(self) -> str:
        """The name as people type it.

        Example:
            >>> [Setting(name, int, 0, "").option for name in ("batch_size", "prior.part", "n")]
            ['--batch-size', '--prior', '-n']
        """
        return spelled(self.name)

    def read(self, value: Any) -> Any:
        """A value of a file, or a text of the command line, as the type has it.

        Raises:
            ValueError: it is of another type.

        Example:
            >>> hidden = Setting("hidden", Sequence[int], (512,), "")
            >>> hidden.read("[64, 64]"), hidden.read([8])
            ([64, 64], [8])
            >>> hidden.read("wide")
            Traceback (most recent call last):
            ...
            ValueError: --hidden: expected list[int], not 'wide'
        """
        try:
            return _as_type(value, self.hint)
        except RepeatedError as error:
            raise ValueError(f"{self.option}: {error}") from None
        except ValueError:
            words = type_words(self.hint)
            expected = f"one of {', '.join(words)}" if len(words) > 1 else words[0]
            shown = "null" if value is None else repr(value)
            raise ValueError(f"{self.option}: expected {expected}, not {shown}") from None


def spelled(name: str) -> str:
    """A setting's name as people type it."""
    return ("-" if len(name) == 1 else "--") + name.removesuffix(".part").replace("_", "-")


def settings_of(function: Callable[..., Any]) -> list[Setting]:
    """Every argument of a constructor or function, from its signature and docstring."""
    hints = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    docs = argument_docs(function)
    return [
        Setting(p.name, hints.get(p.name, Any), p.default, docs.get(p.name, ""))
        for p in inspect.signature(function).parameters.values()
        if p.kind is not p.VAR_KEYWORD
    ]


def argument_docs(function: Callable[..., Any]) -> dict[str, str]:
    """What the docstring says of each argument under ``Args:``, each as one line.

    Of a class: what the classes that it derives from say, where it says nothing itself.

    Example:
        >>> argument_docs(spelled), argument_docs(Setting)["hint"]
        ({}, 'its type.')
    """
    documented = reversed(inspect.getmro(function)) if inspect.isclass(function) else [function]
    docs: dict[str, str] = {}
    for each in documented:
        docstring = inspect.cleandoc(each.__doc__ or "")
        for section in re.findall(r"^Args:\n((?:(?: .*)?(?:\n|\Z))*)", docstring, re.MULTILINE):
            entries = re.findall(r"^ {4}(\w+): (.*(?:\n(?: {5}.*)?)*)", section, re.MULTILINE)
            docs |= {name: " ".join(text.split()) for name, text in entries}
    return docs


def _as_type(value: Any, hint: Any) -> Any:
    """A value as a type has it; text is read as YAML where the type is not text.

    Raises:
        ValueError: it is of another type.
    """
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        for alternative in sorted(inner, key=lambda hint: hint is str):  # any text would be a str
            try:
                return _as_type(value, alternative)
            except RepeatedError:
                raise
            except ValueError:
                continue
        raise ValueError(value)
    if hint is NoneType and value in (None, "null", "None"):
        return None
    if (hint is str and isinstance(value, str)) or (kind is Literal and value in inner):
        return value
    value = plain(value) if kind is not Literal and hint not in (str, NoneType) else None
    if kind in (list, tuple, Sequence) and isinstance(value, (list, tuple)):
        types = [inner[0]] * len(value) if kind is not tuple or inner[-1] is Ellipsis else inner
        return [_as_type(item, own) for item, own in zip(value, types, strict=True)]
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        return float(value)  # a text here is 1e-4, which YAML takes for one
    if type(value) is hint and hint in (int, bool):
        return value
    raise ValueError(value)


class RepeatedError(ValueError):
    """YAML says something twice: by an alias, or by a name that stands there twice."""


class PlainLoader(yaml.SafeLoader):
    """YAML without aliases, of which nine lines can stand for 10^9 values (&a ... *a), and without
    names that stand twice in one mapping, of which all but the last would be dropped.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) and event.anchor in self.anchors:
            raise RepeatedError(f"a value is repeated by an alias (*{event.anchor}); write it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            names = [key.value for key, _ in node.value]
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise RepeatedError(f"{twice!r} stands twice in one mapping; leave one")
        return mapping


class PlainDumper(yaml.SafeDumper):
    """Writes what :class:`PlainLoader` reads: a value that is used twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# a damaged text makes pyyaml's constructors fail in many ways: !!int '' is an IndexError
NO_YAML = (yaml.YAMLError, RecursionError, ValueError, LookupError, TypeError, AttributeError)


def _loaded(text: str) -> Any:
    """What a text says: parsed once where a command asks for it again and again, since pyyaml takes
    tens of milliseconds, and a copy each time.
    """
    return copy.deepcopy(_parsed(text))


@functools.lru_cache(maxsize=4)
def _parsed(text: str) -> Any:
    loader = PlainLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def as_yaml(content: Mapping[str, Any]) -> str:
    """The content of a YAML file.

    Raises:
        yaml.YAMLError: a value that no file can hold.

    Example:
        >>> hidden = [8, 8]
        >>> print(as_yaml({"encoder": {"hidden": hidden}, "decoder": {"hidden": hidden}}), end="")
        encoder:
          hidden:
          - 8
          - 8
        decoder:
          hidden:
          - 8
          - 8
    """
    return str(yaml.dump(content, Dumper=PlainDumper, sort_keys=False, allow_unicode=True))


def plain(text: Any) -> Any:
    """What a text says as YAML, or the text where it is none; what is no text stays as it is.

    Raises:
        ValueError: it repeats a value by an alias, or a name.

    Example:
        >>> plain("[1, 2]"), plain("*.npy"), plain("2026-13-01")
        ([1, 2], '*.npy', '2026-13-01')
        >>> plain("[&a [1, 2], *a]")
        Traceback (most recent call last):
        ...
        lowerbound.config.settings.RepeatedError: a value is repeated by an alias (*a); write it out
    """
    try:
        return _loaded(text) if isinstance(text, str) else text
    except RepeatedError:
        raise
    except NO_YAML:
        return text


def type_words(hint: Any) -> list[str]:
    """A type in words, each alternative by itself.

    Example:
        >>> type_words(float | Literal["shared", "network"]), type_words(Sequence[int] | None)
        (['float', "'shared'", "'network'"], ['list[int]', 'null'])
    """
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return [words for alternative in inner for words in type_words(alternative)]
    if kind is Literal:
        return [repr(choice) for choice in inner]
    if kind in (list, tuple, Sequence):
        items = [" | ".join(type_words(item)) for item in inner if item is not Ellipsis]
        return [f"list[{', '.join(items)}]"]
    return ["null" if hint is NoneType else hint.__name__]


def _is_plain(hint: Any) -> bool:
    """Whether values of a type are data, which a file may hold; any other would have to be
    imported.
    """
    inner = [item for item in get_args(hint) if item is not Ellipsis]
    if get_origin(hint) in (Union, UnionType, list, tuple, Sequence):
        return bool(inner) and all(map(_is_plain, inner))
    return get_origin(hint) is Literal or hint in (bool, int, float, str, NoneType)


def _without_code(hint: Any) -> Any:
    """A union without what only Python can give, such as a function that makes an optimiser."""
    if get_origin(hint) not in (Union, UnionType):
        return hint
    plain_members = tuple(member for member in get_args(hint) if _is_plain(member))
    return Union[plain_members] if plain_members else hint  # noqa: UP007  as many as there are


def as_option(setting: Setting, prefix: str = "") -> Setting:
    """An argument as an option: its name with what it lies in, and null where it has no default.

    Raises:
        ValueError: its type is no plain data.
    """
    name, hint, default = prefix + setting.name, _without_code(setting.hint), setting.default
    if not _is_plain(hint):
        raise ValueError(
            f"--{name} cannot be set from a file or the command line: its type is {hint}, and only "
            "numbers, text, truth values and lists of them can be (a callable would have to be "
            "imported); annotate it, or bind it in Python"
        )
    if default is REQUIRED:  # whoever takes it says what is missing
        default, hint = None, hint | None
    return replace(
        setting,
        name=name,
        hint=hint,
        default=list(default) if isinstance(default, tuple) else default,
    )


def resolve(settings: Iterable[Setting], values: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting, nested as in a file: as the values say, or by default.

    Raises:
        ValueError: a value of another type, or a key that is no setting.

    Example:
        >>> width = Setting("network.width", int, 8, "")
        >>> resolve([width], {"network": {"width": "9"}}), resolve([width], {})
        ({'network': {'width': 9}}, {'network': {'width': 8}})
    """
    known, chosen = {setting.name: setting for setting in settings}, flat(values)
    if strange := [name for name in chosen if name not in known]:
        raise unknown_option(strange[0], known)
    return nested(
        {
            name: setting.read(chosen[name]) if name in chosen else setting.default
            for name, setting in known.items()
        }
    )


def unknown_option(name: str, known: Iterable[str]) -> ValueError:
    """The error for an option that there is not, with the nearest one that there is.

    Example:
        >>> unknown_option("epocs", ["epochs", "batch_size"])
        ValueError('unknown option --epocs; did you mean --epochs? (--help lists them all)')
    """
    near = difflib.get_close_matches(spelled(name), [*map(spelled, known)], n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return ValueError(f"unknown option {spelled(name)}{hint} (--help lists them all)")


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as mappings in mappings.

    Example:
        >>> nested({"prior.part": "Normal", "prior.covariance": "full", "epochs": 3})
        {'prior': {'part': 'Normal', 'covariance': 'full'}, 'epochs': 3}
    """
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split(".")
        branch = tree
        for key in path:
            branch = branch.setdefault(key, {})
        branch[last] = value
    return tree


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Mappings in mappings by dotted names.

    Example:
        >>> flat({"prior": {"part": "Normal", "covariance": "full"}, "epochs": 3})
        {'prior.part': 'Normal', 'prior.covariance': 'full', 'epochs': 3}
    """
    values: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        values |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return values


def read_yaml(text: str, where: str) -> dict[str, Any]:
    """The mapping in a YAML text: plain values only, never objects.

    Raises:
        ValueError: it is no YAML, asks for an object by a tag, repeats a value by an alias or a
            name, or holds no mapping.
    """
    try:
        content = _loaded(text)
    except NO_YAML as error:
        raise ValueError(f"{where} is not plain YAML: {first_line(error)}") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{where} must hold a mapping of names to settings")
    return content


def read_yaml_file(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ValueError: it is no text, or see :func:`read_yaml`.
        OSError: it cannot be read.
    """
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not plain YAML: {error}") from None
    return read_yaml(text, str(path))
