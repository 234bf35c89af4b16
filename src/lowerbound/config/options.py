"""Options: what a command can be told, its command line taken apart, and its help.

argparse writes the help and reads nothing. It would have to know every option before it takes a
command line apart, and here the parts that are chosen on the command line decide which options
there are.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from lowerbound.config.settings import (
    REQUIRED,
    Setting,
    nested,
    resolve,
    spelled,
    type_words,
    unknown_option,
)

SWITCHED = ("true", "false", "yes", "no", "on", "off")  # what an option that is a switch takes


@dataclass(frozen=True)
class CommandLine:
    """A command line taken apart, once.

    Args:
        positional: the arguments that are no options, in order.
        options: the last value of each option by its key, "posterior.network.hidden" or, for a
            part, "posterior". Where the option was known, the value is of its type; otherwise it
            is the text, or True where no value follows.
    """

    positional: Sequence[str]
    options: Mapping[str, Any]

    @classmethod
    def of(cls, argv: Sequence[str], known: Mapping[str, Setting]) -> CommandLine:
        """Take a command line apart.

        Every option takes the word behind it as its value. One that is known to be a
        switch takes only true, false and the like, so that ``--compile digits`` names data.

        Raises:
            ValueError: a known option without a value, or with one of another type.

        Example:
            >>> known = {"epochs": Setting("epochs", int, 100, "")}
            >>> CommandLine.of(["digits", "--epochs=3", "--latent", "2"], known)
            CommandLine(positional=['digits'], options={'epochs': 3, 'latent': '2'})
        """
        positional: list[str] = []
        options: dict[str, Any] = {}
        rest = list(argv)
        while rest:
            word, equals, value = rest.pop(0).partition("=")
            if not word.startswith("-"):
                positional.append(word + equals + value)
                continue
            key = word.lstrip("-").replace("-", "_").removesuffix(".part")
            key = "help" if key == "h" else key
            setting = known.get(key)
            follows = rest[0] if rest else "--"
            is_switch = setting is not None and setting.hint is bool
            if equals:
                options[key] = value
            elif follows.startswith("--") or (is_switch and follows.lower() not in SWITCHED):
                options[key] = True
            else:
                options[key] = rest.pop(0)
            if setting is not None:
                options[key] = _read(setting, options[key])
        return cls(positional, options)

    def named(self, settings: Iterable[Setting]) -> dict[str, Any]:
        """The options by the names of the settings, which name a part "posterior.part".

        Raises:
            ValueError: an option that is none of the settings, or has no value.
        """
        known, values = {setting.option: setting for setting in settings}, {}
        for key, value in self.options.items():
            if spelled(key) not in known:
                raise unknown_option(key, [setting.name for setting in known.values()])
            setting = known[spelled(key)]
            values[setting.name] = _read(setting, value)
        return values


def _read(setting: Setting, value: Any) -> Any:
    if value is True and setting.hint is not bool:
        raise ValueError(f"{setting.option} needs a value (see --help)")
    return setting.read(value)


class Options:
    """What a command can be told: positional arguments, and options in groups.

    Args:
        usage: the command as it is typed.
        description: what it does.
        group: the title in the help of the options that are in no other group.

    Example:
        >>> options = Options("lowerbound draw RUN -n N", "Draw examples.")
        >>> options.add_positional("run", "RUN", "the run folder", REQUIRED)
        >>> options.add("n", int, "how many", 64)
        >>> options.read(["here", "-n", "3"])
        {'run': 'here', 'help': False, 'n': 3}
    """

    def __init__(self, usage: str, description: str, group: str = "options") -> None:
        self.usage, self.description, self.group = usage, description, group
        self.positional: list[tuple[str, Setting]] = []
        self.groups: dict[str, list[Setting]] = {}
        self.add("help", bool, "show this help", False)

    @property
    def settings(self) -> dict[str, Setting]:
        """Every option by its name."""
        return {setting.name: setting for group in self.groups.values() for setting in group}

    def add_positional(self, name: str, metavar: str, help: str, default: Any = None) -> None:
        """Add an argument that has a place and no name; a list takes all that are left."""
        hint = list[str] if isinstance(default, list) else str
        self.positional.append((metavar, Setting(name, hint, default, help)))

    def add(self, name: str, hint: Any, help: str, default: Any = None) -> None:
        """Add an option; without a default it may be null."""
        hint = hint | None if default is None else hint
        self.add_group(self.group, [Setting(name, hint, default, help)])

    def add_group(self, title: str, settings: Iterable[Setting]) -> None:
        """Add options under a title in the help."""
        self.groups.setdefault(title, []).extend(settings)

    def read(self, argv: Sequence[str]) -> dict[str, Any]:
        """All arguments by name; where --help is asked for, it is shown and SystemExit ends the
        command.

        Raises:
            ValueError: what is wrong with the command line, in one line.
        """
        line, settings = CommandLine.of(argv, self.settings), self.settings.values()
        if line.options.get("help"):
            print(self.help())
            raise SystemExit(0)
        options = line.named(settings)
        return self._placed(line.positional) | resolve(settings, nested(options))

    def _placed(self, words: Sequence[str]) -> dict[str, Any]:
        """The positional arguments by name."""
        placed: dict[str, Any] = {}
        rest, missing = list(words), []
        for metavar, argument in self.positional:
            if argument.hint is not str:
                placed[argument.name], rest = rest, []
            elif not rest and argument.default is REQUIRED:
                missing.append(metavar)
            else:
                placed[argument.name] = rest.pop(0) if rest else argument.default
        if missing:
            raise ValueError(f"missing: {', '.join(missing)} (see --help)")
        if rest:
            raise ValueError(f"{rest[0]!r} is one argument too many (see --help)")
        return placed

    def help(self) -> str:
        """The help of the command."""
        writer = argparse.ArgumentParser(
            usage=self.usage, description=self.description, add_help=False
        )
        for metavar, argument in self.positional:
            writer.add_argument(argument.name, metavar=metavar, help=argument.help)
        for title, settings in self.groups.items():
            group = writer if title == "options" else writer.add_argument_group(title)
            for setting in settings:
                names = ["-h", "--help"] if setting.name == "help" else [setting.option]
                if setting.hint is bool:
                    group.add_argument(*names, action="store_true", help=_explained(setting))
                else:
                    group.add_argument(*names, metavar=_metavar(setting), help=_explained(setting))
        return writer.format_help()


def _metavar(setting: Setting) -> str:
    """What stands for the value in the help."""
    hints = [hint for hint in get_args(setting.hint) if hint is not NoneType]
    hint = hints[0] if len(hints) == 1 and NoneType in get_args(setting.hint) else setting.hint
    if get_origin(hint) is Literal:
        return f"{{{','.join(map(str, get_args(hint)))}}}"
    is_list = all(words.startswith("list") for words in type_words(hint))
    return "[ITEM,...]" if is_list else setting.name.rpartition(".")[2].upper()


def _explained(setting: Setting) -> str:
    """The help of an option with its type and its default."""
    words = [each for each in type_words(setting.hint) if each != "null"]
    is_told = all(each in ("str", "bool") or each.startswith("'") for each in words)
    facts = [] if is_told else [f"type: {' or '.join(words)}"]
    if setting.default is not None and setting.default is not False:
        facts.append(f"default: {setting.default}")
    text = f"{setting.help} ({', '.join(facts)})" if facts else setting.help
    return text.strip().replace("%", "%%")
