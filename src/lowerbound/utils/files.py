"""Files that are whole or absent: written beside their place, flushed to disk, then renamed over
it.

A rename is atomic on one file system, so a reader, a second process or a resumed run sees the old
file or the new one and never a part of either, whenever the writer is killed and however full the
disk is.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn

from lowerbound.utils.messages import first_line


def write_atomic(path: str | Path, write: Callable[[IO[bytes]], object]) -> Path:
    """Write a file by a function of the open binary stream; on any failure the old file stays and
    nothing is left over.

    Args:
        path: the file; its folder must exist.
        write: is given the stream.

    Raises:
        OSError: the folder is missing or not writable, or the disk is full.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_atomic(folder / "a.txt", lambda stream: stream.write(b"whole")).read_bytes()
        b'whole'
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(
            0o666 & ~umask
        )  # mkstemp makes files private; these are meant to be shared like any other
        Path(name).replace(path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(
            error, OSError
        ):  # a full disk does not say where, and nobody knows the temporary file
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    _sync_folder(path.parent)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text atomically."""
    return write_atomic(path, lambda stream: stream.write(text.encode()))


def write_json(path: str | Path, content: Any) -> Path:
    """Write JSON atomically; nan and infinity are refused, since other readers cannot open them."""
    return write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """The content of a JSON file; its numbers are finite, as those that :func:`write_json` writes.

    Raises:
        ValueError: it is no JSON, nested too deeply, or holds nan or infinity.
        OSError: it cannot be read.
    """
    try:
        return parse_json(Path(path).read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {first_line(error)}") from None


def parse_json(text: str) -> Any:
    """What a JSON text says; numbers are finite.

    Raises:
        ValueError: it is no JSON, nested too deeply, or holds nan or infinity.

    Example:
        >>> parse_json('{"loss": 1e999}')
        Traceback (most recent call last):
        ...
        ValueError: 1e999 is no finite number
    """
    try:
        return json.loads(text, parse_constant=_not_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None


def _finite(digits: str) -> float:
    return value if math.isfinite(value := float(digits)) else _not_finite(digits)


def _not_finite(digits: str) -> NoReturn:
    raise ValueError(f"{digits} is no finite number")


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # other systems cannot open a folder; there the rename itself has to do
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
