"""Files that are whole or absent: written beside their place, flushed to disk, then renamed over
it.

A rename is atomic on one file system, so a reader, a second process or a resumed run sees the old
file or the new one and never a part of either, whenever the writer is killed and however full the
disk is.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any


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


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # other systems cannot open a folder; there the rename itself has to do
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
