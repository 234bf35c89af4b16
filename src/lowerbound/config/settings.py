"""Settings: the arguments of constructors and functions as a configuration and as command-line
options.

A default exists once, in a signature, and a setting is explained once, in a docstring; this module
reads both.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser

from lowerbound.utils.messages import first_line


@dataclass(frozen=True)
class Setting:
    """One argument: its name, type, default (``inspect.Parameter.empty`` where there is none) and
    help.
    """

    name: str
    hint: Any
    default: Any
    help: str


def settings_of(function: Callable[..., Any]) -> list[Setting]:
    """Every argument of a constructor or function, from its signature and docstring.

    What a class does not explain is explained by the classes that it derives from.
    """
    of = function.__init__ if inspect.isclass(function) else function
    hints = get_type_hints(of)
    parameters = [
        p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD
    ]
    documented = reversed(inspect.getmro(function)) if inspect.isclass(function) else [function]
    helps = {
        p.arg_name: " ".join((p.description or "").split())
        for each in documented
        for p in parse_docstring(each.__doc__ or "").params
    }
    return [
        Setting(p.name, hints.get(p.name, Any), p.default, helps.get(p.name, ""))
        for p in parameters
    ]


class SettingsParser(ArgumentParser):
    """jsonargparse's parser with errors as one line: what was wrong, where, and the nearest valid
    name.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"add_help": False, "allow_abbrev": False, **kwargs})

    def read(self, argv: Sequence[str]) -> dict[str, Any]:
        """The options by name; where --help was asked for, it is shown and SystemExit ends the
        command, as argparse does.
        """
        if "--help" in argv or "-h" in argv:
            print(self.format_help())
            raise SystemExit(0)
        return dict(self.parse_args(argv).as_dict())

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Raise ValueError with the message rewritten for a person."""
        text = first_line(ex if ex is not None and not message else ValueError(message))
        if match := re.search(r"(?:Option '|unrecognized arguments: (?:--)?)([^'\s=]+)", text):
            name = match[1].removesuffix(".part")
            if "unrecognized" in text and f"--{name}" not in text:
                raise ValueError(f"{name!r} is one argument too many (see --help)")
            raise ValueError(self._unknown_option(name))
        if match := re.match(r'Parser key "([^"]+)": (.*)', text):
            raise ValueError(f"--{_typed(match[1])}: {_plain_words(match[2])}")
        if match := re.search(r"arguments are required: (.*)", text):
            raise ValueError(f"missing: {match[1].upper().replace('SOURCE', 'DATA')} (see --help)")
        raise ValueError(text.replace(".part", ""))

    def _unknown_option(self, name: str) -> str:
        valid = [
            _typed(option[2:])
            for option in self._option_string_actions
            if re.fullmatch(r"--[a-z_.]+", option)
        ]
        near = difflib.get_close_matches(_typed(name), valid, n=1, cutoff=0.5)
        hint = f"; did you mean --{near[0]}?" if near else ""
        return f"unknown option --{_typed(name)}{hint} (--help lists them all)"

    def format_help(self, formatter: Any = None) -> str:
        """The help as people type options: --likelihood for --likelihood.part, hyphens, and no word
        where no default is.
        """
        text = re.sub(
            r", --[\w.]+\+ \S+", "", super().format_help(formatter)
        )  # jsonargparse's way to append to lists
        text = text.replace(".part ", " ").replace(".part\n", "\n").replace("(default: False)", "")
        text = re.sub(r"\(type:\s[^()]*?,\s+default:\s+null\)", "", text)
        text = text.replace("(required, type: str)", "")
        text = re.sub(r"(?<=\s)--[a-z_.]+", lambda match: match[0].replace("_", "-"), text)
        return re.sub(r"[ \t]+$|\n[ \t]+$", "", text, flags=re.MULTILINE)

    def parse_args(self, args: Sequence[str] | None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Parse options spelled as people type them: --batch-size is --batch_size, --likelihood is
        --likelihood.part.
        """
        known = self._option_string_actions
        return super().parse_args([_spelled(token, known) for token in args or ()], **kwargs)


def _typed(key: str) -> str:
    """An option's name as people type it."""
    return key.removesuffix(".part").replace("_", "-")


def _plain_words(message: str) -> str:
    """A type error of jsonargparse without Python's syntax."""
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>|typing\.", lambda match: match[1] or "", message)
    text = text.replace("Sequence", "list").replace("NoneType", "null")
    if match := re.fullmatch(r"Expected a (.*)\. Got value: (.*)", text):
        wanted = re.sub(r"Literal\[(.*)\]", r"one of \1", match[1])
        return f"expected {wanted}, not {match[2]!r}"
    if match := re.search(r"Subtypes: \[(.*)\] Errors:.*Given value: (.*)", text):
        wanted = re.sub(r"Literal\[(.*?)\]", r"\1", match[1])
        return f"expected one of {wanted}, not {match[2]!r}"
    return text


def _spelled(token: str, known: Mapping[str, object]) -> str:
    name, equals, value = token.partition("=")
    if not name.startswith("--") or name in known:
        return token
    name = "--" + name[2:].replace("-", "_")
    return (name + ".part" if name + ".part" in known else name) + equals + value


def _is_plain(hint: Any) -> bool:
    """Whether values of a type are data: for any other, jsonargparse would import what a file
    names.
    """
    if hint in (bool, int, float, str, type(None)):
        return True
    origin, arguments = get_origin(hint), [a for a in get_args(hint) if a is not Ellipsis]
    if origin is Literal:
        return True
    return (
        origin in (Union, UnionType, list, tuple, Sequence)
        and bool(arguments)
        and all(map(_is_plain, arguments))
    )


def add_setting(group: Any, key: str, setting: Setting) -> None:
    """Add one setting to a parser as --key, with its type, its default and the help from the
    docstring.
    """
    hint, default = setting.hint, setting.default
    if not _is_plain(hint):
        raise ValueError(
            f"--{key} cannot be set from a file or the command line: its type is {hint}, and only "
            "numbers, text, truth values and lists of them can be (a callable would have to be "
            "imported); annotate it, or bind it in Python"
        )
    if default is inspect.Parameter.empty:
        default, hint = None, hint | None
    default = list(default) if isinstance(default, tuple) else default
    group.add_argument(f"--{key}", type=hint, default=default, help=setting.help.replace("%", "%%"))


def read_yaml(text: str, where: str) -> dict[str, Any]:
    """The mapping in a YAML text: plain values only, never objects.

    Raises:
        ValueError: it is no YAML, asks for an object by a tag, or holds no mapping.
    """
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
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
