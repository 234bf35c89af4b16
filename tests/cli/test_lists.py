"""`lowerbound data` says what the data sets say of themselves."""

from __future__ import annotations

from lowerbound.cli.lists import named_sets
from lowerbound.data import NAMED


def test_the_sets_that_are_listed_without_importing_them_are_those_that_can_be_loaded() -> None:
    assert named_sets() == {name: (module.__doc__ or "").strip() for name, module in NAMED.items()}
