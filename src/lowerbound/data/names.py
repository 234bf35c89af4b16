"""Names on both sides are matched by name: columns of a table, the labels of a column of classes,
and the classes of y.

A model that was trained on height and weight finds them in a table of weight, id and height: the
order is the model's, and id is left out with a word. A column that is not there is refused, with
the nearest name that is. Where one side has no names, as an array has none, columns are taken by
position, and that is said.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lowerbound.data.dataset import Dataset, Split
from lowerbound.supports import Levels, union
from lowerbound.utils.messages import nearest, some, unknown


def are_numbers(columns: Sequence[str] | None) -> bool:
    """Whether these are no names: there are none, or they are 1, 2, ... for want of a header.

    Example:
        >>> are_numbers(None), are_numbers(["1", "2"]), are_numbers(["height", "2"])
        (True, True, False)
    """
    return columns is None or all(name.isdigit() for name in columns)


def check_distinct(columns: Sequence[str], where: str) -> None:
    """Refuse a name that stands twice: by it, neither column could be told from the other.

    Raises:
        ValueError: which name, and at which places, counted from 1.

    Example:
        >>> check_distinct(["a", "b", "a"], "t.csv")
        Traceback (most recent call last):
        ValueError: t.csv: the column 'a' stands twice (columns 1 and 3); rename or remove one
    """
    for name in columns:
        places = [i for i, other in enumerate(columns, 1) if other == name]
        if len(places) > 1:
            times = "twice" if len(places) == 2 else f"{len(places)} times"
            raise ValueError(
                f"{where}: the column {name!r} stands {times} (columns "
                f"{', '.join(map(str, places[:-1]))} and {places[-1]}); rename or remove one"
            )


def positions(wanted: Sequence[str], there: Sequence[str], where: str) -> list[int]:
    """Where each of the wanted columns stands among those that there are.

    Every reader of names goes through here: files, cards and arrays with names.

    Args:
        wanted: names, in the order in which they are taken.
        there: the names of the columns of the data.
        where: what the data are called, for the message.

    Raises:
        ValueError: a column is not there; which, and the nearest that is.

    Example:
        >>> positions(["height", "weight"], ["id", "weight", "height"], "new.csv")
        [2, 1]
        >>> positions(["height", "weight"], ["HEIGHT", "weight"], "new.csv")
        Traceback (most recent call last):
        ValueError: new.csv lacks the column 'height' (did you mean 'HEIGHT'?); its columns: \
HEIGHT, weight
    """
    missing = [name for name in wanted if name not in there]
    if missing:
        spare = [name for name in there if name not in wanted]
        words = []
        for name in missing:
            near = nearest(name, spare)
            words.append(repr(name) + (f" (did you mean {near!r}?)" if near else ""))
            spare = [other for other in spare if other != near]  # each is meant once
        raise ValueError(
            f"{where} lacks the column{'s' * (len(missing) > 1)} {some(words)}; "
            f"its columns: {some(there, 20)}"
        )
    return [list(there).index(name) for name in wanted]


@dataclass(frozen=True)
class Names:
    """What the data of a model were called.

    Args:
        columns: of a table, in the order of x; None where they had no names.
        categories: of columns that hold classes, by name: the labels, in the order of their levels.
        classes: the classes of y, in the order of their numbers; None where y is none.

    Example:
        >>> import numpy as np
        >>> import lowerbound as lb
        >>> x = np.array([[1.0, 2.0]] * 10)
        >>> trained = Names(columns=("height", "weight"))
        >>> new = lb.data.from_arrays(x, columns=["weight", "height"], splits="all")
        >>> trained.matched(new).examples("all")[0].tolist()
        [2.0, 1.0]
    """

    columns: tuple[str, ...] | None = None
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None

    @classmethod
    def of(cls, data: Dataset) -> Names:
        """Those of a card."""
        return cls(data.columns, dict(data.categories), data.classes)

    @classmethod
    def of_record(cls, card: Mapping[str, Any]) -> Names:
        """Those of the data in the configuration of a run."""
        columns, classes = card.get("columns"), card.get("classes")
        words = [str(option).partition("=") for option in card.get("categorical") or ()]
        return cls(
            None if columns is None else tuple(map(str, columns)),
            {name: tuple(labels.split("|")) for name, equals, labels in words if equals},
            None if classes is None else tuple(map(str, classes)),
        )

    def matched(self, data: Dataset, takes_classes: bool = False) -> Dataset:
        """The data with columns, labels and classes in the order in which the model has them.

        Args:
            data: new data.
            takes_classes: whether y is told to the model, so that its numbers have a meaning.

        Raises:
            ValueError: a column or a label that is not there; which, and the nearest that is.
        """
        data = self._in_order(data)
        for name, labels in data.categories.items():
            if self.columns is not None and labels != self.categories.get(name, labels):
                data = _recoded(data, name, self.categories[name])
        if takes_classes and None not in (self.classes, data.classes):
            data = _renumbered(data, self.classes or ())
        return data

    def check(self, data: Dataset, takes_classes: bool = False) -> None:
        """Refuse data whose columns, labels or classes have another order or other names.

        Raises:
            ValueError: which differ, and how to read them so that they do not.
        """
        where = data.name or "the data"
        if not are_numbers(data.columns) and not are_numbers(self.columns):
            positions(self.columns or (), data.columns or (), where)
            _check_same(where, "columns", data.columns, self.columns, "columns={}", "columns")
            for name, labels in data.categories.items():
                if name not in self.categories:
                    raise ValueError(
                        f"{where}: the column {name!r} holds classes ({some(labels)}), and the "
                        "model was trained on numbers there"
                    )
                trained = self.categories[name]
                what = f"classes of {name!r}"
                option = f"[{name}={'|'.join(trained)}]"
                _check_same(where, what, labels, trained, f"categorical={option}", "categorical")
        if takes_classes and None not in (self.classes, data.classes):
            _check_same(where, "classes", data.classes, self.classes, "classes={}", "classes")

    def _in_order(self, data: Dataset) -> Dataset:
        """The columns by name, or, where one side has none, by position."""
        there, where = data.columns, data.name or "the data"
        if len(data.event_shape) != 1 or there == self.columns:
            return data
        if there is not None and self.columns is not None and set(self.columns) <= set(there):
            is_whole = len(there) == len(self.columns)
            if is_whole or not are_numbers(there):
                return _chosen(data, positions(self.columns, there, where))
        if are_numbers(there) or are_numbers(self.columns):
            are_as_many = self.columns is None or (len(self.columns),) == data.event_shape
            if are_as_many and not (are_numbers(there) and are_numbers(self.columns)):
                say_by_position(where, there, self.columns)
            return data
        positions(self.columns or (), there or (), where)  # which says what is missing
        return data


def _check_same(
    where: str,
    what: str,
    there: Sequence[str] | None,
    trained: Sequence[str] | None,
    remedy: str,
    option: str,
) -> None:
    """Refuse other names, or another order of them, than a model was trained on."""
    if there != trained:
        names = f"[{','.join(trained or ())}]"
        python = remedy.format(names)
        raise ValueError(
            f"{where} has the {what} {some(there or (), 20)}, and the model was trained on "
            f"{some(trained or (), 20)}, in this order; read them so: {python} "
            f'(--data.{option} "{python.partition("=")[2]}")'
        )


def say_by_position(where: str, there: Sequence[str] | None, wanted: Sequence[str] | None) -> None:
    """Say that columns are taken by their position, since one side has no names."""
    if are_numbers(there):
        reason = f"{where} has no names of columns"
    else:
        reason = "the model was trained on columns without names"
    names = wanted if are_numbers(there) else there
    warnings.warn(f"{reason}, so they are taken by position: {some(names or (), 20)}", stacklevel=4)


def say_ignored(where: str, left_out: Sequence[str]) -> None:
    """Say which columns are ignored, since the model does not know them."""
    if left_out:
        warnings.warn(
            f"{where}: ignored the column{'s' * (len(left_out) > 1)} {some(left_out, 20)}, which "
            "the model was not trained on",
            stacklevel=4,
        )


def _chosen(data: Dataset, index: Sequence[int]) -> Dataset:
    """A card of some columns, in this order."""
    assert data.columns is not None  # the caller has looked
    columns = tuple(data.columns[i] for i in index)
    left_out = tuple(name for name in data.columns if name not in columns)
    say_ignored(data.name or "the data", left_out)

    def of(split: Split) -> Split:
        assert isinstance(split.values, Tensor)  # what stays in a file has no names
        mask = None if split.mask is None else split.mask[:, index]
        return replace(split, values=split.values[:, index], mask=mask)

    splits = {name: of(split) for name, split in data.splits.items()}
    if all(split.mask is None or bool(split.mask.all()) for split in splits.values()):
        splits = {name: replace(split, mask=None) for name, split in splits.items()}
    supports = data.column_supports
    supports = None if supports is None else tuple(supports[i] for i in index)
    is_narrower = left_out and supports is not None and not isinstance(data.stored_support, Levels)
    return replace(
        data,
        splits=splits,
        stored_support=union(supports or ()) if is_narrower else data.stored_support,
        columns=columns,
        column_supports=supports,
        categories={name: each for name, each in data.categories.items() if name in columns},
        left_out=(*data.left_out, *left_out),
        sha256=_digest(data, columns),
    )


def _recoded(data: Dataset, name: str, labels: tuple[str, ...]) -> Dataset:
    """A card whose column of classes is on the levels that a model has for its labels."""
    assert data.columns is not None  # the caller has looked
    j, there = data.columns.index(name), data.categories[name]
    where = f"{data.name or 'the data'}: column {name!r}"
    level = torch.tensor([_place(label, labels, where) / (len(labels) - 1) for label in there])

    def of(split: Split) -> Split:
        assert isinstance(split.values, Tensor)  # what stays in a file has no classes
        values = split.values.clone()
        codes = (values[:, j] * (len(there) - 1)).round().long()
        values[:, j] = level.to(values)[codes]
        if split.mask is not None:
            values[:, j] *= split.mask[:, j]  # what is missing is zero
        return replace(split, values=values)

    supports = data.column_supports or ()
    return replace(
        data,
        splits={key: of(split) for key, split in data.splits.items()},
        column_supports=(*supports[:j], Levels(len(labels)), *supports[j + 1 :]),
        categories={**data.categories, name: labels},
        sha256=_digest(data, labels),
    )


def _renumbered(data: Dataset, classes: tuple[str, ...]) -> Dataset:
    """A card whose classes of y have the numbers that a model has for them."""
    if data.classes == classes or data.classes is None:
        return data
    where = data.name or "the data"
    number = torch.tensor([_place(name, classes, where) for name in data.classes])

    def of(split: Split) -> Split:
        if split.y is None:
            return split
        return replace(split, y=torch.where(split.y < 0, split.y, number[split.y.clamp(min=0)]))

    splits = {key: of(split) for key, split in data.splits.items()}
    return replace(data, splits=splits, classes=classes, sha256=_digest(data, classes))


def _place(label: str, labels: Sequence[str], where: str) -> int:
    if label not in labels:
        raise ValueError(f"{where}: {unknown('class', label, labels)}")
    return list(labels).index(label)


def _digest(data: Dataset, names: Sequence[str]) -> str:
    """Of the same values in another order, or with other numbers for their names."""
    return hashlib.sha256(f"{data.sha256} {'|'.join(names)}".encode()).hexdigest()
