"""The draw: what is not asked for is not worked out, and what is, is worked out once and with its
gradients.
"""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from tests.conftest import make_model


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The values at which a density of independent entries was evaluated."""
    values: list[torch.Tensor] = []
    own = Independent.log_prob

    def log_prob(self: Independent, value: torch.Tensor) -> torch.Tensor:
        values.append(value)
        return own(self, value)

    monkeypatch.setattr(Independent, "log_prob", log_prob)
    return values


def test_a_closed_kl_needs_no_density_of_z(
    binary_digits: Dataset, scored: list[torch.Tensor]
) -> None:
    model, x = make_model(binary_digits), binary_digits.examples("test")[:8]
    for objective, evaluated in (
        (lb.objectives.ELBO(), 0),
        (lb.objectives.ELBO(kl="sampled"), 2),
        (lb.objectives.IWAE(3), 2),
    ):
        scored.clear()
        draw = model(x, samples=objective.samples)
        objective(draw, lb.objective.Step(0.5, 100))
        at_z = [value for value in scored if value is draw.latents[0].z]
        assert len(at_z) == evaluated


def test_who_asks_first_does_not_decide_whether_there_are_gradients(binary_digits: Dataset) -> None:
    model, x = make_model(binary_digits), binary_digits.examples("test")[:8]
    draw = model(x, samples=2)
    with torch.no_grad():
        assert draw.log_w.shape == (2, 8)
        assert draw.distortion.shape == (8,)
    assert draw.log_qz.requires_grad
    assert draw.distortion.requires_grad
    with torch.no_grad():
        without = model(x, samples=2)
    assert not without.log_qz.requires_grad
    assert without.latents[0].log_q is without.latents[0].log_q
