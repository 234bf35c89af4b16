"""Runs the Python examples in README.md and docs/ as tests, each document in an empty folder of its
own.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

# one thread for each process, here and in those that tests start: the models are small, and threads
# of several processes that wait for each other on a busy machine make them fifty times slower
os.environ["OMP_NUM_THREADS"] = "1"

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser


def enter(namespace: dict[str, Any]) -> None:
    """Go to an empty folder."""
    namespace["_before"] = os.getcwd()  # noqa: PTH109
    os.chdir(tempfile.mkdtemp())


def leave(namespace: dict[str, Any]) -> None:
    """Come back."""
    os.chdir(namespace["_before"])


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["*.md"],
    excludes=["docs/extending.md"],
    setup=enter,
    teardown=leave,
).pytest()
