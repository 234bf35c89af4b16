"""Digests: a run's files say in themselves what their content was when they were written.

    evaluation.json    {"nll": ..., "content_sha256": "9f86d0..."}

A digest of its own in each file, and not a list of digests beside them, keeps one file one atomic
write: a kill between two writes leaves no file that another one contradicts. SHA-256 finds damage
(a bad disk, a copy cut off, an edit); it is no protection against somebody who writes a new digest
as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lowerbound.utils.files import parse_json
from lowerbound.utils.messages import first_line

KEY = "content_sha256"  # evaluation.json has a sha256 already, of the examples


class NoDigestError(ValueError):
    """A file says nothing of its content: an earlier version wrote it, or another program."""


def digest_of(content: Mapping[str, Any], before: str = "") -> str:
    """The digest of what stands in JSON, however it is indented.

    Args:
        content: what stands there.
        before: the digest of what stands before it in the same file.

    Example:
        >>> digest_of({"epoch": 1})[:16], digest_of({"epoch": 1}, before="a")[:16]
        ('becef8ff3d5edb2b', '85f7e9d7e4c9566a')
    """
    return hashlib.sha256((before + json.dumps(content, allow_nan=False)).encode()).hexdigest()


def signed(content: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """The content with its digest."""
    return {**content, KEY: digest_of(content, before)}


def verified(content: Any, before: str = "") -> dict[str, Any]:
    """The content without its digest, which is compared.

    Raises:
        NoDigestError: there is none.
        ValueError: it is that of another content.

    Example:
        >>> verified(signed({"epoch": 1}))
        {'epoch': 1}
        >>> verified({**signed({"epoch": 1}), "epoch": 3})
        Traceback (most recent call last):
        ...
        ValueError: its content is not what was written (its SHA-256 differs)
    """
    if not isinstance(content, dict):
        raise ValueError(f"it holds {type(content).__name__} in the place of names and values")
    if KEY not in content:
        raise NoDigestError(f"it has no {KEY}")
    rest = {key: value for key, value in content.items() if key != KEY}
    if digest_of(rest, before) != content[KEY]:
        raise ValueError("its content is not what was written (its SHA-256 differs)")
    return rest


def signed_lines(records: Sequence[Mapping[str, Any]]) -> str:
    """Records as lines of JSON; the digest of each covers those before it too, so that no line can
    be lost between two others.
    """
    lines, before = [], ""
    for record in records:
        line = signed(record, before)
        before = line[KEY]
        lines.append(json.dumps(line, allow_nan=False) + "\n")
    return "".join(lines)


def verified_lines(text: str, is_demanded: bool) -> list[dict[str, Any]]:
    """The records in lines of JSON, without their digests, which are compared.

    Args:
        text: the lines.
        is_demanded: whether a file without digests is refused.

    Raises:
        ValueError: which line is damaged.
    """
    records: list[dict[str, Any]] = []
    before = ""
    lines = text.split("\n")
    if lines.pop():
        raise ValueError(f"line {len(lines) + 1} has no end")
    for number, line in enumerate(lines, 1):
        try:
            content = parse_json(line)
            if not is_demanded and not before and isinstance(content, dict) and KEY not in content:
                records.append(content)
                continue
            records.append(verified(content, before))
        except ValueError as error:
            raise ValueError(f"line {number}: {first_line(error)}") from None
        before = content[KEY]
    return records
