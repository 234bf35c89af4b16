import torch
from torch.distributions import AffineTransform, ExpTransform, Normal, TransformedDistribution

from lowerbound.distributions import mean


def test_without_a_formula_it_is_the_average_of_draws_and_deterministic() -> None:
    flow = TransformedDistribution(
        Normal(torch.zeros(3), torch.ones(3)), [AffineTransform(2.0, 0.5), ExpTransform()]
    )
    before = torch.get_rng_state()
    assert torch.equal(mean(flow), mean(flow))
    assert torch.equal(before, torch.get_rng_state())
    truth = torch.exp(torch.tensor(2 + 0.125))
    assert bool(
        ((mean(flow) - truth).abs() < 4 * truth * 0.53 / 8).all()
    )  # sd of the log-normal is 0.53 of its mean
