"""Scores of a representation against factors: on codes of which the score is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lowerbound.evaluation import dci, factor_score, mig, sap
from lowerbound.evaluation.dci import _completeness, _disentanglement
from lowerbound.evaluation.factors import GROUPS, binned, checked, entropy, mutual_information

Array = NDArray[np.float64]


def grid(*sizes: int, repeats: int = 1) -> Array:
    """All combinations of so many values, each as often, in an order that no score can lean on."""
    every = np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), -1).reshape(-1, len(sizes))
    return np.random.default_rng(0).permutation(every.repeat(repeats, 0))


FACTORS = grid(4, 5, 3, repeats=20)
PERFECT = np.stack([2.0 - FACTORS[:, 2], 10.0 * FACTORS[:, 0], FACTORS[:, 1] ** 3.0], 1)
"""Each factor in one dimension, in another order, direction and scale."""
NOISE = np.random.default_rng(1).normal(size=(len(FACTORS), 4))


def test_a_dimension_for_each_factor_is_perfect_by_every_score() -> None:
    codes = np.concatenate([PERFECT, NOISE[:, :2]], 1)
    assert mig(PERFECT, FACTORS).estimate.value == pytest.approx(1)
    assert sap(FACTORS, FACTORS, amounts=True).estimate.value == pytest.approx(1)
    found = dci(PERFECT, FACTORS)
    for score in (found.disentanglement, found.completeness, found.informativeness):
        assert score is not None
        assert score.value == pytest.approx(1)
    assert found.importance.argmax(1).tolist() == [1, 2, 0]
    assert factor_score(codes, FACTORS).estimate.value == 1
    # dimensions of noise change what they should: nothing but the little that chance says of a
    # factor
    assert mig(codes, FACTORS).estimate.value > 0.97


def test_sap_of_classes_is_one_less_than_what_chance_gives() -> None:
    """The second dimension guesses one class in C."""
    assert sap(PERFECT, FACTORS).estimate.value == pytest.approx(
        1 - np.mean([1 / 4, 1 / 5, 1 / 3]), abs=0.02
    )


def test_thresholds_are_measured_on_examples_that_they_were_not_learned_on() -> None:
    """Of 60 examples, noise tells a class of three by chance, and on those that it was learned on a
    good deal better.
    """
    noise = np.random.default_rng(2).normal(size=(60, 40))
    table = sap(noise, np.arange(60) % 3).table
    assert table.mean() == pytest.approx(1 / 3, abs=0.05)


def test_the_gap_of_a_small_joint_is_that_of_the_formula() -> None:
    """z_1 = v, and z_2 is v but for one time in four: 1 - I(z_2; v) / H(v) = H(1/4) / log 2."""
    rows = np.array([[v, v, v if i < 3 else 1 - v] for v in (0, 1) for i in range(4)])
    h = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
    score = mig(rows[:, 1:], rows[:, :1])
    assert score.estimate.value == pytest.approx(h)
    assert score.table == pytest.approx(np.array([[1.0, 1 - h]]))


def test_information_is_a_share_of_what_the_factor_has_and_not_of_what_its_values_could_have() -> (
    None
):
    """A rare value: H(v) is far below log 2, and a dimension that is v still says all of it."""
    v = (np.arange(200) % 8 == 0).astype(int)
    assert mig(np.stack([v, 0 * v], 1), v).estimate.value == pytest.approx(1)
    # each class counts alike for SAP: a dimension that says nothing is right half of the time,
    # however rare a class is
    assert sap(np.stack([v, 0 * v], 1), v).estimate.value == pytest.approx(0.5)


def test_the_gap_of_a_table_that_is_not_square() -> None:
    """Two factors and five dimensions, of which three copy the first factor: its gap is 0, that of
    the second 1.
    """
    v = grid(4, 6, repeats=10)
    codes = np.stack([v[:, 0], v[:, 1], -v[:, 0], NOISE[: len(v), 0] * 0, v[:, 0] * 2.0], 1)
    score = mig(codes, v)
    assert score.table.shape == (2, 5)
    assert score.per_factor == pytest.approx((0.0, 1.0))
    assert score.estimate.value == pytest.approx(0.5)


def test_codes_turned_by_half_a_right_angle_are_entangled_by_every_score() -> None:
    v = grid(12, 12, repeats=10).astype(float)
    centred = v - v.mean(0)
    turned = centred @ np.array([[1.0, -1.0], [1.0, 1.0]]) / math.sqrt(2)
    assert mig(turned, v).estimate.value == pytest.approx(
        0, abs=0.03
    )  # a value at the edge of a bin lies in one of two
    assert sap(turned, v, amounts=True).estimate.value == pytest.approx(0, abs=1e-10)
    found = dci(turned, v)
    assert found.disentanglement is not None
    assert found.disentanglement.value < 0.1
    assert found.informativeness.value > 0.9  # all is there, in both


def test_codes_that_say_nothing_score_what_chance_gives() -> None:
    n, values = len(FACTORS), (4, 5, 3)
    estimate = mig(NOISE, FACTORS).estimate
    bias = np.mean([(20 - 1) * (c - 1) / (2 * n) / math.log(c) for c in values])
    assert 0 <= estimate.value < bias  # a gap between two such biases
    assert abs(sap(NOISE, FACTORS).estimate.value) < 0.1
    assert sap(NOISE, FACTORS, amounts=True).estimate.value < 0.01
    found = dci(NOISE, FACTORS)
    assert found.disentanglement is not None
    assert found.disentanglement.value < 0.05
    assert found.informativeness.value == pytest.approx(np.mean([1 / c for c in values]), abs=0.05)
    score = factor_score(NOISE, FACTORS).estimate
    # nothing that the dimension tells, but a factor that was held a little more often than others
    # by chance
    assert score.value == pytest.approx(1 / 3, abs=4 * score.stderr)


def test_what_independent_variables_seem_to_share_is_the_bias_that_is_documented() -> None:
    rng = np.random.default_rng(0)
    found = [
        mutual_information(rng.integers(20, size=1000), rng.integers(5, size=1000))
        for _ in range(200)
    ]
    assert np.mean(found) == pytest.approx(
        19 * 4 / 2000, abs=4 * np.std(found) / math.sqrt(200) + 0.002
    )


def test_the_error_is_that_of_another_draw_of_the_examples() -> None:
    """The spread of the score over fresh sets of examples of one joint lies near the error that
    each of them gives.
    """
    values, errors = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        v = rng.integers(4, size=(1000, 2))
        codes = v + rng.normal(size=(1000, 2)) * [0.6, 1.0] + 0.5 * v[:, ::-1]
        estimate = mig(codes, v).estimate
        values.append(estimate.value)
        errors.append(estimate.stderr)
    assert 0.6 < np.std(values) / np.mean(errors) < 1.6


def test_the_order_of_examples_and_the_units_of_codes_change_nothing() -> None:
    rng = np.random.default_rng(0)
    codes = PERFECT + rng.normal(size=PERFECT.shape)
    order = rng.permutation(len(codes))
    for score in (mig, factor_score):
        one = score(codes, FACTORS).estimate.value
        assert score(codes[:, ::-1] * [3.0, -5.0, 0.1], FACTORS).estimate.value == pytest.approx(
            one, abs=0.02
        )
        assert score(codes[order], FACTORS[order]).estimate.value == pytest.approx(one, abs=0.05)
    assert (
        mig(torch.from_numpy(codes), torch.from_numpy(FACTORS)).estimate
        == mig(codes, FACTORS).estimate
    )


def test_a_factor_that_never_varies_is_left_out() -> None:
    """The colour of dSprites has one value."""
    with_constant = np.concatenate([np.ones((len(FACTORS), 1)), FACTORS], 1)
    assert mig(PERFECT, with_constant).estimate == mig(PERFECT, FACTORS).estimate
    assert len(sap(PERFECT, with_constant).per_factor) == 3


def test_one_factor_or_one_dimension_leaves_a_score_out() -> None:
    assert dci(PERFECT, FACTORS[:, 0]).disentanglement is None
    alone = dci(PERFECT[:, :1], FACTORS)
    assert alone.completeness is None
    assert alone.disentanglement is not None
    assert mig(FACTORS[:, :1], FACTORS[:, 0]).estimate.value == pytest.approx(
        1
    )  # nothing else says anything


def test_of_few_examples_there_is_no_error() -> None:
    assert math.isnan(mig(PERFECT[:99], FACTORS[:99]).estimate.stderr)
    assert mig(PERFECT[:100] + NOISE[:100, :3], FACTORS[:100]).estimate.stderr > 0


def test_a_dimension_counts_by_how_much_it_matters() -> None:
    """By hand, from a table of importances of two factors in three dimensions."""
    importance = np.array([[1.0, 0.0, 0.0], [0.5, 0.25, 0.25]])
    share = 2 / 3  # of v_1 in what z_1 tells; z_2 and z_3 tell of v_2 alone
    own = 1 + (share * math.log(share) + (1 - share) * math.log(1 - share)) / math.log(2)
    assert _disentanglement(importance) == pytest.approx((1.5 * own + 0.25 + 0.25) / 2)
    # completeness: v_1 is in z_1 alone, and v_2 in three dimensions
    of_second = 1 + (0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25)) / math.log(3)
    assert _completeness(importance) == pytest.approx((1 + of_second) / 2)


def test_counts_and_bins() -> None:
    assert binned(np.array([[0.0], [1.0], [5.0]]), 20).ravel().tolist() == [0, 1, 2]
    even = binned(np.linspace(0, 1, 1000)[:, None], 20).ravel()
    assert np.bincount(even).tolist() == [50] * 20
    assert entropy(even) == pytest.approx(math.log(20))
    skewed = np.bincount(binned(np.linspace(0, 1, 1000)[:, None] ** 2, 20).ravel()) / 1000
    assert skewed[0] == pytest.approx(
        math.sqrt(1 / 20), abs=2e-3
    )  # of equal width, and not of equal number
    assert GROUPS > 1


def test_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"\(10, 2\) and factors of shape \(9, 1\) do not fit"):
        checked(np.zeros((10, 2)), np.zeros(9))
    with pytest.raises(ValueError, match="not finite"):
        mig(np.full((10, 2), np.nan), np.arange(10))
    with pytest.raises(ValueError, match="none of the 2 factors varies"):
        sap(np.zeros((10, 2)), np.zeros((10, 2)))
    with pytest.raises(ValueError, match="bins is 1"):
        mig(np.zeros((10, 2)), np.arange(10), bins=1)
    with pytest.raises(ValueError, match="no dimension of the codes varies"):
        factor_score(np.zeros((10, 2)), np.arange(10))
    with pytest.raises(ValueError, match="votes 0"):
        factor_score(PERFECT, FACTORS, votes=0)
