"""Words for errors: one line that says what was wrong and which valid name was probably meant."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path


def unknown(kind: str, name: str, valid: Iterable[str]) -> str:
    """One line for an unknown name: the nearest valid one, and the list of them.

    Example:
        >>> unknown("prior", "StandrdNormal", ["StandardNormal"])
        "unknown prior 'StandrdNormal'; did you mean 'StandardNormal'? (there is: StandardNormal)"
    """
    names = sorted(valid)
    near = nearest(name, names)
    hint = "" if near is None else f"; did you mean {near!r}?"
    return f"unknown {kind} {name!r}{hint} (there is: {', '.join(names) or 'none'})"


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name that was probably meant; None where none is near.

    Example:
        >>> nearest("hight", ["weight", "height"]), nearest("kilos", ["weight", "height"])
        ('height', None)
    """
    names = sorted(valid)
    near = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1, cutoff=0.5)
    return next((n for n in names if near and n.lower() == near[0]), None)


def some(words: Sequence[str], most: int = 5) -> str:
    """The first few of a list, and how many more there are.

    Example:
        >>> some(["a", "b", "c"]), some(["a", "b", "c"], 2)
        ('a, b, c', 'a, b and 1 more')
    """
    more = len(words) - most
    return ", ".join(words[:most]) + (f" and {more} more" if more > 0 else "")


def either(words: Sequence[str]) -> str:
    """Alternatives, as they are said.

    Example:
        >>> either([".npy", ".csv", ".png"]), either([".npy"])
        ('.npy, .csv or .png', '.npy')
    """
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def pasted(path: str | Path) -> str:
    """A path as a word of a command that can be pasted: quoted for a shell, and never taken for an
    option.

    Example:
        >>> pasted("runs/digits-1"), pasted("my run"), pasted("-x")
        ('runs/digits-1', "'my run'", './-x')
    """
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def first_line(error: BaseException) -> str:
    r"""An exception's message folded into one line, for a person at a terminal.

    Example:
        >>> first_line(ValueError("two\nlines"))
        'two lines'
    """
    return " ".join(str(error).split()) or type(error).__name__


def printable(text: object) -> str:
    r"""A text as a terminal may show it: what would move its cursor, ring its bell, or change its
    colours or its title is written as Python writes it.

    Names of files, columns and classes come from others. Everything that the command prints of them
    goes through here.

    Example:
        >>> printable("run\x1b[2J\x07\nnext"), printable("läufe/β 1")
        ('run\\x1b[2J\\x07\\nnext', 'läufe/β 1')
    """
    return "".join(
        character if character.isprintable() else repr(character)[1:-1] for character in str(text)
    )
