"""All values of finite variables, once each."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Normal

from lowerbound.distributions import OneHot, count_states, states


@pytest.mark.parametrize(
    ("distribution", "count"),
    [
        (OneHot(torch.rand(4)), 4),
        (OneHot(torch.rand(5, 4)), 4),
        (Independent(OneHot(torch.rand(5, 3, 4)), 1), 4**3),
        (Independent(OneHot(torch.rand(5, 2, 3, 2)), 2), 2**6),
        (Independent(Independent(OneHot(torch.rand(5, 2, 3, 2)), 1), 1), 2**6),
        (Independent(Bernoulli(torch.rand(5, 2, 3)), 2), 2**6),
        (Bernoulli(torch.rand(5)), 2),
        (Categorical(torch.rand(5, 6)), 6),
    ],
)
def test_each_is_there_once_and_the_probabilities_sum_to_one(
    distribution: Distribution, count: int
) -> None:
    every = states(distribution)
    assert every.shape == (count, *distribution.event_shape)
    assert len(every.unique(dim=0)) == count == count_states(distribution)
    batch = distribution.batch_shape
    total = distribution.log_prob(
        every.reshape(count, *[1] * len(batch), *distribution.event_shape).expand(
            -1, *batch, *distribution.event_shape
        )
    )
    assert torch.allclose(total.exp().sum(0), torch.ones(batch))


def test_what_has_no_finite_support_is_refused() -> None:
    with pytest.raises(ValueError, match="Normal has no finite number of states"):
        states(Independent(Normal(torch.zeros(3), 1.0), 1))
