"""Whether the files of a run hold what a run writes, and belong together.

A digest says that a file is as it was written. These say that what was written is what a run
writes, in files of earlier versions and of other programs too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lowerbound.config.settings import flat

ESTIMATE = ("value", "stderr", "unit")
MEANS = ("train", "valid")
TIMES = ("seconds", "examples_per_second")


def check_records(records: Sequence[Mapping[str, Any]]) -> None:
    """Refuse what are not the records of epochs 1, 2, ...

    Raises:
        ValueError: which is not, and why.

    Example:
        >>> check_records([{"epoch": 2}])
        Traceback (most recent call last):
        ...
        ValueError: line 1 is of epoch 2
    """
    for number, record in enumerate(records, 1):
        if record.get("epoch") != number or isinstance(record["epoch"], bool):
            raise ValueError(f"line {number} is of epoch {record.get('epoch')!r}")
        for split in MEANS:
            means = record.get(split)
            is_absent = split == "valid" and means is None
            if not is_absent and not (
                isinstance(means, Mapping) and all(map(_is_number_or_none, means.values()))
            ):
                raise ValueError(f"line {number} has no numbers under {split!r}")
        if not {"elbo", "loss"} <= record["train"].keys():
            raise ValueError(f"line {number} lacks the loss or the elbo of training")
        for name in TIMES:
            if not _is_number(record.get(name)) or record[name] < 0:
                raise ValueError(f"line {number}: {name!r} is {record.get(name)!r}")


def check_evaluation(content: Mapping[str, Any]) -> None:
    """Refuse what is not an evaluation.

    Raises:
        ValueError: what is not in it, or of another kind.

    Example:
        >>> check_evaluation({"estimator": "importance sampling", "rate": {"value": "3"}})
        Traceback (most recent call last):
        ...
        ValueError: 'rate' is no estimate with value, stderr and unit
    """
    if not isinstance(content.get("estimator"), str):
        raise ValueError("it does not say its estimator")
    warnings = content.get("warnings", [])
    if not isinstance(warnings, list) or not all(isinstance(each, str) for each in warnings):
        raise ValueError("its warnings are no list of texts")
    for key, value in content.items():
        if isinstance(value, Mapping) and not _is_estimate(value):
            raise ValueError(f"{key!r} is no estimate with value, stderr and unit")
    for key in ("rate", "nll", "objective"):
        if key not in content or not isinstance(content[key], (Mapping, type(None))):
            raise ValueError(f"it has no {key}")
    for key, names in (("curve", ("samples", "nll")), ("levels", ("name", "rate"))):
        points = content.get(key, [])
        if not isinstance(points, list):
            raise ValueError(f"{key!r} is no list")
        for point in points:
            if not isinstance(point, Mapping) or not _is_estimate(point.get(names[1])):
                raise ValueError(f"{key!r} holds what is no estimate")
            if key == "curve" and not (_is_number(point.get("samples")) and point["samples"] > 0):
                raise ValueError(f"{key!r} holds {point.get('samples')!r} samples")
            if key == "levels" and not (
                isinstance(point.get("name"), str)
                and _is_number(point.get("active_units"))
                and _is_number(point.get("latent_dimensions"))
            ):
                raise ValueError(f"{key!r} holds what is no level")


def check_trained_as(then: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Refuse a configuration that is not the one with which weights were trained: many a setting
    leaves the shapes as they are, and changes every number.

    A part from a package may have moved within it; a setting that a later version added was unknown
    then.

    Args:
        then: what stands beside the weights.
        now: what config.yaml says.
        where: that file.

    Raises:
        ValueError: the first setting that differs.

    Example:
        >>> then = {"activation": "Tanh"}
        >>> check_trained_as(then, {"activation": "ReLU"}, "c.yaml")
        Traceback (most recent call last):
        ...
        ValueError: c.yaml says activation 'ReLU', and the weights were trained with 'Tanh'; ...
    """
    here = flat(json.loads(json.dumps(now)))
    for key, value in flat(then).items():
        is_moved = key.endswith("part") and _class(value) == _class(here.get(key))
        if value != here.get(key) and not is_moved:
            raise ValueError(
                f"{where} says {key} {_short(here.get(key))}, and the weights were trained with "
                f"{_short(value)}; put that back"
            )


def _short(value: Any) -> str:
    """A value as Python writes it, as far as it fits into a line."""
    text = repr(value)
    return text if len(text) < 80 else f"{text[:76]} ..."


def _class(name: object) -> str:
    """A part's name without the module that it lies in."""
    return str(name).rpartition(".")[2]


def _is_estimate(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and set(ESTIMATE) <= value.keys()
        and _is_number_or_none(value["value"])
        and _is_number_or_none(value["stderr"])
        and isinstance(value["unit"], str)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_number_or_none(value: Any) -> bool:
    return value is None or _is_number(value)
