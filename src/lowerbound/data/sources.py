"""Where data come from: the sets that are known by name, files, folders, and what reads each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lowerbound.data import (
    arrays,
    cifar10,
    digits,
    fashion_mnist,
    folders,
    mnist,
    mnist_static,
    tables,
)
from lowerbound.data.dataset import Stored
from lowerbound.data.options import Options
from lowerbound.utils.messages import unknown

NAMED = {
    "cifar10": cifar10,
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "mnist": mnist,
    "mnist_static": mnist_static,
}
"""The sets that are known by name, each a module of this package."""

NAME, FOLDER = "a named set", "a folder of pictures"
NPY, NPZ, CSV, PARQUET = "a .npy file", "a .npz file", "a .csv file", "a .parquet file"

READERS: Mapping[str, Callable[..., Stored]] = {
    NPY: arrays.read,
    NPZ: arrays.read,
    CSV: tables.read,
    PARQUET: tables.read,
    FOLDER: folders.read,
}
"""What reads each kind of the user's own data; a file's kind is its suffix."""

ONLY_FOR = {
    "array": (NPZ,),
    "missing": (NPY, NPZ, CSV, PARQUET),
    "categorical": (CSV, PARQUET),
    "columns": (CSV, PARQUET),
    "ignore": (CSV, PARQUET),
    "channels": (NPY, NPZ),
    "factors": (NPZ,),
    "labels": (NPZ, CSV, PARQUET),
    "size": (FOLDER,),
    "memory": (NPY, FOLDER),
}
"""Options that only some kinds of sources have."""

UNASKED = (None, "refuse", "auto")
"""What such options are where nobody asks for anything."""

OWN = ".npy, .npz, .csv or .parquet file, or a folder of pictures"


def read(source: str | Path, options: Options) -> Stored:
    """The arrays of a source.

    Args:
        source: a name, or a path.
        options: those that the source's reader takes are handed to it.

    Raises:
        ValueError: there is no such source, it cannot be read, or an option is for another kind of
            source.
        OSError: a file cannot be read, or a download failed.
    """
    if not str(source):
        raise ValueError(f"the data's name is empty; give one of {', '.join(NAMED)}, or a {OWN}")
    path, kind = Path(source).expanduser(), kind_of(source)
    if not path.exists() and kind not in (NAME, *READERS):
        raise ValueError(
            f"{unknown('data set', str(source), NAMED)}; your own data are read from a {OWN}"
        )
    if kind not in (NAME, *READERS):
        raise ValueError(
            f"{path} cannot be read as data: give a {OWN}, or one of {', '.join(NAMED)}"
        )
    for option, kinds in ONLY_FOR.items():
        if kind not in kinds and getattr(options, option) not in UNASKED:
            raise ValueError(
                f"{option} (--data.{option}) is for {' or '.join(kinds)}, and {source} is {kind}"
            )
    if kind == NAME:
        stored: Stored = NAMED[str(source)].read()
        return stored
    if kind != FOLDER and not path.is_file():
        raise ValueError(
            f"there is no file {path}" + (" (it is a folder)" if path.is_dir() else "")
        )
    reader = READERS[kind]
    _, *taken = inspect.signature(reader).parameters
    return reader(path, **{option: getattr(options, option) for option in taken})


def applicable(source: str | Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments of :func:`lowerbound.data.load` that this kind of source has.

    Example:
        >>> applicable("other.npy", {"levels": 17, "labels": "species", "size": None})
        {'levels': 17}
    """
    kind = kind_of(source)
    return {name: value for name, value in options.items() if kind in ONLY_FOR.get(name, (kind,))}


def kind_of(source: str | Path) -> str:
    """What a source is, whether it is there or not.

    Example:
        >>> kind_of("digits"), kind_of("other.npy")
        ('a named set', 'a .npy file')
    """
    path = Path(source).expanduser()
    by_suffix = f"a {path.suffix.lower()} file"
    if str(source) in NAMED:
        return NAME
    return FOLDER if path.is_dir() and by_suffix not in READERS else by_suffix
