"""zuko, the library of flows, under a name of its own and with torch left as it was.

When zuko is imported it edits torch for the whole program: argument validation is switched off in
every distribution, and transforms get a method more. Here its files are imported as
``lowerbound.distributions._zuko.transforms`` and so on, and torch is put back at once. So nothing
outside notices, a program that imports ``zuko`` itself gets what it expects, in either order, and
what is made of zuko's classes can be pickled and compiled as usual. What zuko's own transforms
expect of torch they are given.

Imported where a flow is made, and nowhere else.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.distributions import Distribution, Transform
from torch.distributions.transforms import _InverseTransform

EDITED = (Distribution, Transform, _InverseTransform)


@contextmanager
def left_as_they_are(*classes: type) -> Iterator[None]:
    """Within the block the attributes of these classes may be changed; afterwards they are what
    they were.

    Example:
        >>> class Kept:
        ...     size = 1
        >>> with left_as_they_are(Kept):
        ...     Kept.size, Kept.more = 2, 3
        >>> Kept.size, "more" in vars(Kept)
        (1, False)
    """
    before = [(one, one.__name__, dict(vars(one))) for one in classes]
    try:
        yield
    finally:
        for one, name, attributes in before:
            one.__name__ = name
            for key, value in dict(vars(one)).items():
                if key not in attributes:
                    delattr(one, key)
                elif value is not attributes[key]:
                    setattr(one, key, attributes[key])


def _folder() -> list[str]:
    """Where zuko's files lie."""
    spec = importlib.util.find_spec("zuko")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(
            "flows are made by zuko, an extra that is not installed: "
            'pip install "lowerbound[flows]"'
        )
    return list(spec.submodule_search_locations)


__path__ = _folder()

with left_as_they_are(*EDITED):
    distributions: Any = importlib.import_module("lowerbound.distributions._zuko.distributions")
    transforms: Any = importlib.import_module("lowerbound.distributions._zuko.transforms")
    flows: Any = importlib.import_module("lowerbound.distributions._zuko.flows")
    _call_and_ladj = vars(Transform)["call_and_ladj"]

for _one in vars(transforms).values():
    # of zuko's own classes, those that rely on what was added to torch's
    is_own = (
        inspect.isclass(_one)
        and issubclass(_one, Transform)
        and _one.__module__ == transforms.__name__
    )
    if is_own and "call_and_ladj" not in vars(_one):
        _one.call_and_ladj = _call_and_ladj
