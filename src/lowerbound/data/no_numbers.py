"""What is said of columns that hold no numbers: all of them at once, with the options that take
them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lowerbound.utils.messages import some

# 2024-01-31, 31.01.2024, 1/31/24, 2024-01-31 12:00
DATE = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}([T ]\d{1,2}:\d{2}.*)?")
DECIMAL_COMMA = re.compile(r"[+-]?[\d.]*\d,\d+([eE][+-]?\d+)?")
# a column with more different texts than this, and in more than half of its cells another one,
# holds names and no classes
MANY = 20
MOST_CLASSES = 1000  # above it they are no classes either, and no more are looked at


@dataclass
class Texts:
    """The cells of a column that are neither numbers nor missing.

    Args:
        name: of the column.
        row: the first such row.
        cell: what stands there.
    """

    name: str
    row: int
    cell: str
    count: int = 0
    different: set[str] = field(default_factory=set)
    are_dates: bool = True
    are_decimals: bool = True

    def add(self, cell: str) -> None:
        """One more."""
        self.count += 1
        if len(self.different) <= MOST_CLASSES:
            self.different.add(cell)
        self.are_dates = self.are_dates and DATE.fullmatch(cell.strip()) is not None
        self.are_decimals = self.are_decimals and DECIMAL_COMMA.fullmatch(cell.strip()) is not None

    @property
    def are_classes(self) -> bool:
        """Whether they can be: few texts that recur."""
        many = min(MOST_CLASSES, max(MANY, self.count // 2))
        return not self.are_dates and not self.are_decimals and len(self.different) <= many


def collected(columns: Sequence[str], cells: Iterable[tuple[int, str, str]]) -> list[Texts]:
    """The columns that hold text, in their order.

    Args:
        columns: names.
        cells: row, column and text of every cell that is neither a number nor missing.
    """
    by_name: dict[str, Texts] = {}
    for row, name, cell in cells:
        by_name.setdefault(name, Texts(name, row, cell)).add(cell)
    return [by_name[name] for name in columns if name in by_name]


def remedy(texts: Sequence[Texts]) -> str:
    """What to do with columns of text, as it follows what is wrong with the first of them.

    Example:
        >>> cells = [(2, "city", "oslo"), (2, "joined", "2024-01-27"), (3, "city", "bergen")]
        >>> print(remedy(collected(["city", "joined"], cells)))
        2 columns hold no numbers (city, joined): 'joined' holds dates, which are left out, or \
written as numbers (days since the first); take classes and leave out the rest by \
categorical=['city'], ignore=['joined'] (--data.categorical "[city]" --data.ignore "[joined]")
    """
    several = f"{len(texts)} columns hold no numbers ({some([t.name for t in texts], 20)}): "
    words = [several if len(texts) > 1 else ""]
    if dates := [repr(t.name) for t in texts if t.are_dates]:
        words.append(
            f"{some(dates)} hold{'s' * (len(dates) == 1)} dates, which are left out, or written as "
            "numbers (days since the first); "
        )
    if decimals := [repr(t.name) for t in texts if t.are_decimals]:
        words.append(
            f"{some(decimals)} hold{'s' * (len(decimals) == 1)} decimal commas: write a decimal "
            f"point ({texts[0].cell.replace(',', '.') if texts[0].are_decimals else '1.5'}), as "
            "pandas.read_csv(..., decimal=',').to_csv(...) does; "
        )
    classes = [t.name for t in texts if t.are_classes]
    others = [t.name for t in texts if not t.are_classes and not t.are_decimals]
    options = {
        option: names for option, names in (("categorical", classes), ("ignore", others)) if names
    }
    python = ", ".join(f"{option}={names!r}" for option, names in options.items())
    line = " ".join(f'--data.{option} "[{",".join(names)}]"' for option, names in options.items())
    if len(texts) == 1 and classes:
        name = classes[0]
        words.append(
            f"text can only be classes ({python}, {line}), labels (labels={name!r}) or left out "
            f"(ignore=[{name!r}])"
        )
    elif classes and others:
        words.append(f"take classes and leave out the rest by {python} ({line})")
    elif classes:
        words.append(f"take them as classes by {python} ({line})")
    elif others:
        words.append(f"leave {'it' if len(others) == 1 else 'them'} out by {python} ({line})")
    return "".join(words).removesuffix("; ")
