"""Words for errors: one line that says what was wrong and which valid name was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def unknown(kind: str, name: str, valid: Iterable[str]) -> str:
    """One line for an unknown name: the nearest valid one, and the list of them.

    Example:
        >>> unknown("prior", "StandrdNormal", ["StandardNormal"])
        "unknown prior 'StandrdNormal'; did you mean 'StandardNormal'? (there is: StandardNormal)"
    """
    names = sorted(valid)
    near = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1, cutoff=0.5)
    hint = next((f"; did you mean {n!r}?" for n in names if near and n.lower() == near[0]), "")
    return f"unknown {kind} {name!r}{hint} (there is: {', '.join(names) or 'none'})"


def either(words: Sequence[str]) -> str:
    """Alternatives, as they are said.

    Example:
        >>> either([".npy", ".csv", ".png"]), either([".npy"])
        ('.npy, .csv or .png', '.npy')
    """
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def first_line(error: BaseException) -> str:
    r"""An exception's message folded into one line, for a person at a terminal.

    Example:
        >>> first_line(ValueError("two\nlines"))
        'two lines'
    """
    return " ".join(str(error).split()) or type(error).__name__
