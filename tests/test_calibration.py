"""The stated interval holds the truth as often as it says; benchmarks/calibration.py does the same
2,000 times.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import pytest
from calibration import band, coverage, run

REPETITIONS = 500


def test_a_95_percent_interval_holds_the_truth_95_percent_of_the_time() -> None:
    for name, share in coverage(REPETITIONS).items():
        assert abs(share - 0.95) < 4 * band(REPETITIONS), (name, share)


@pytest.mark.slow
def test_two_thousand_times() -> None:
    assert run(2000)
