import math

import pytest
import torch

import lowerbound as lb


def test_the_standard_error_is_the_spread_of_repeated_means() -> None:
    means = torch.randn(2000, 50).mean(1)
    claimed = torch.tensor([lb.Estimate.over(row).stderr for row in torch.randn(2000, 50)])
    # the sd of 2,000 means has a relative error of 1/sqrt(4000) = 1.6 %
    assert means.std().item() == pytest.approx(claimed.mean().item(), rel=4 * 0.016 + 0.01)


def test_95_percent_intervals_cover_the_truth() -> None:
    covered = 0
    for row in torch.randn(2000, 100) + 3:
        estimate = lb.Estimate.over(row)
        covered += abs(estimate.value - 3) < 1.96 * estimate.stderr
    assert (
        abs(covered / 2000 - 0.95) < 4 * math.sqrt(0.05 * 0.95 / 2000) + 0.005
    )  # 0.005: normal for Student's t


def test_one_example_has_no_standard_error() -> None:
    estimate = lb.Estimate.over(torch.tensor([2.0]))
    assert math.isnan(estimate.stderr)
    assert estimate.as_json() == {"value": 2.0, "stderr": None, "n": 1, "unit": "nats"}
    assert "unknown" in str(estimate)


def test_no_example_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        lb.Estimate.over(torch.zeros(0))


def test_bits_are_converted_from_nats_only() -> None:
    bits = lb.Estimate(8 * math.log(2), 0.1, 5, "nats").bits_per_dim(4)
    assert bits.value == pytest.approx(2.0)
    with pytest.raises(ValueError, match="converted from nats"):
        bits.bits_per_dim(4)


def test_a_loss_turned_into_a_bound_keeps_its_error() -> None:
    assert lb.Estimate(3.0, 0.5, 9, "nats").times(-1, "nats") == lb.Estimate(-3.0, 0.5, 9, "nats")
