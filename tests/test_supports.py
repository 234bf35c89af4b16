import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowerbound.supports import BINARY, COUNTS, INTEGER, REAL, UNIT, Levels, contains, describe


@given(st.integers(2, 300), st.integers(2, 300))
def test_one_grid_contains_another_where_every_point_does(outer: int, inner: int) -> None:
    points = torch.arange(inner) / (inner - 1)
    assert contains(Levels(outer), Levels(inner)) == bool(Levels(outer).check(points).all())


def test_containment_is_not_mutual() -> None:
    assert contains(REAL, UNIT)
    assert not contains(UNIT, REAL)
    assert contains(INTEGER, BINARY)
    assert contains(INTEGER, COUNTS)
    assert contains(COUNTS, BINARY)
    assert not contains(COUNTS, INTEGER)
    assert not contains(COUNTS, Levels(3))
    assert not contains(BINARY, UNIT)
    assert {describe(s) for s in (UNIT, REAL, INTEGER, COUNTS, BINARY)} == {
        "the interval [0, 1]",
        "the real line",
        "the integers",
        "the counts {0, 1, 2, ...}",
        "{0, 1}",
    }


@pytest.mark.parametrize("value", [0.5, -1.0, 2.0, float("nan")])
def test_a_value_off_the_grid_is_seen(value: float) -> None:
    assert not BINARY.check(torch.tensor(value))
