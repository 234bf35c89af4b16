import itertools

import pytest
import torch
from torch import Tensor

from lowerbound.distributions import DiscretizedLogisticMixture, LevelCategorical
from tests.contracts import within


def coupled(
    levels: int, components: int = 3, dtype: torch.dtype = torch.float64
) -> DiscretizedLogisticMixture:
    torch.manual_seed(0)
    logits, loc, log_scale = (
        torch.randn(components),
        torch.randn(3, components),
        torch.randn(3, components) - 1,
    )
    coupling = torch.randn(3, components).tanh()
    return DiscretizedLogisticMixture(
        *(v.to(dtype) for v in (logits, loc, log_scale)), levels, coupling.to(dtype)
    )


def triples(levels: int, dtype: torch.dtype = torch.float64) -> Tensor:
    grid = [i / (levels - 1) for i in range(levels)]
    return torch.tensor(list(itertools.product(grid, repeat=3)), dtype=dtype)


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_sums_to_one_over_the_levels(levels: int, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    logits, loc, log_scale = (torch.randn(50, 4, dtype=dtype) * size for size in (1, 2, 4))
    px = DiscretizedLogisticMixture(logits, loc, log_scale, levels)
    total = px.log_prob((torch.arange(levels, dtype=dtype) / (levels - 1))[:, None]).exp().sum(0)
    assert torch.allclose(total, torch.ones_like(total), rtol=0, atol=tolerance)


def test_is_the_difference_of_the_logistic_distribution_function() -> None:
    """By hand, in float64, where nothing is far enough out to cancel."""
    loc, log_scale, levels = (
        torch.tensor([0.2, -0.5]).double(),
        torch.tensor([-1.0, -2.0]).double(),
        9,
    )
    weights = torch.tensor([0.3, 0.7]).double()
    edges = ((torch.arange(levels - 1) + 0.5) / (levels - 1) * 2 - 1)[:, None]
    below = torch.sigmoid((edges - loc) * (-log_scale).exp())
    ends = torch.zeros(1, 2), torch.ones(1, 2)
    expected = torch.cat([ends[0], below, ends[1]]).diff(dim=0) @ weights
    px = DiscretizedLogisticMixture(weights.log(), loc, log_scale, levels)
    assert torch.allclose(
        px.log_prob(torch.arange(levels).double() / (levels - 1)).exp(), expected, atol=1e-12
    )


@pytest.mark.parametrize("levels", [2, 3, 5])
def test_sums_to_one_over_all_triples_of_coupled_channels(levels: int) -> None:
    assert coupled(levels).log_prob(triples(levels)).exp().sum().item() == pytest.approx(
        1, abs=1e-12
    )


def test_coupled_channels_are_those_of_the_paper() -> None:
    """Given red and green, each channel of each component is a single logistic at the location of
    the formula.
    """
    px, x = coupled(5), triples(5)
    t, k = 2 * x - 1, px.coupling
    terms = []
    for c in range(3):
        red, green = t[:, 0], t[:, 1]
        locs = (
            px.loc[0, c].expand(125),
            px.loc[1, c] + k[0, c] * red,
            px.loc[2, c] + k[1, c] * red + k[2, c] * green,
        )
        parts = [
            DiscretizedLogisticMixture(
                torch.zeros(125, 1), loc[:, None], px.log_scale[i, c].expand(125, 1), 5
            )
            for i, loc in enumerate(locs)
        ]
        terms.append(
            px.log_weights[c] + sum(part.log_prob(x[:, i]) for i, part in enumerate(parts))
        )
    assert torch.allclose(px.log_prob(x), torch.logsumexp(torch.stack(terms), 0), atol=1e-10)


def test_samples_have_the_frequencies_of_the_levels() -> None:
    """Each count within five standard errors of a binomial's."""
    n = 40000
    for px, x in (
        (coupled(3), triples(3)),
        (
            DiscretizedLogisticMixture(
                torch.zeros(2), torch.tensor([-0.9, 0.3]), torch.tensor([-1.0, -3.0]), 9
            ),
            None,
        ),
    ):
        torch.manual_seed(1)
        values = torch.arange(9.0)[:, None] / 8 if x is None else x
        p = px.log_prob(values.squeeze(-1)).exp()
        draws = px.sample((n,)).reshape(n, -1)
        assert bool(px.support.check(draws).all())
        frequencies = ((draws[:, None] - values).abs() < 1e-6).all(-1).double().mean(0)
        assert bool(((frequencies - p).abs() <= 5 * (p * (1 - p) / n).sqrt() + 1e-6).all())


def test_mean_and_variance_are_those_of_the_levels() -> None:
    torch.manual_seed(0)
    px = DiscretizedLogisticMixture(*torch.randn(3, 6, 4).double(), levels=17)
    masses = px.log_prob((torch.arange(17.0).double() / 16)[:, None])
    same = LevelCategorical(masses.T)
    assert torch.allclose(px.mean, same.mean, atol=1e-6)
    assert torch.allclose(px.variance, same.variance, atol=1e-6)


def test_the_mean_of_coupled_channels_is_by_conditional_means() -> None:
    """Away from the ends, where a channel's mean is linear in its location, it is the mean; red's
    always is.
    """
    torch.manual_seed(0)
    loc, log_scale = 0.2 * torch.randn(3, 2), torch.full((3, 2), -4.0)
    inside = DiscretizedLogisticMixture(
        torch.zeros(2), loc, log_scale, 256, torch.randn(3, 2).tanh()
    )
    x = inside.sample((20000,))
    assert all(within(x[:, i], inside.mean[i]) for i in range(3))
    px, x = coupled(5), triples(5)
    assert (px.log_prob(x).exp() @ x)[0].item() == pytest.approx(px.mean[0].item(), abs=1e-12)
    with pytest.raises(NotImplementedError):
        _ = px.variance


@pytest.mark.parametrize("extreme", [-1e4, -100.0, -8.0, 8.0, 100.0, 1e4])
def test_values_and_gradients_are_finite_whatever_the_parameters(extreme: float) -> None:
    x = torch.tensor([0.0, 1 / 255, 0.5, 1.0])[:, None].expand(4, 3)
    for chosen in range(4):
        values = [torch.zeros(2), torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3, 2)]
        values[chosen] = values[chosen].clone()
        values[chosen][..., 0] = extreme
        values[2][..., 1] = -8.0  # beside it a sharp one
        parameters = [v.clone().requires_grad_() for v in values]
        px = DiscretizedLogisticMixture(*parameters[:3], 256, parameters[3])
        log_p = px.log_prob(x)
        assert bool(log_p.isfinite().all())
        assert bool((log_p <= 1e-5).all())
        for gradient in torch.autograd.grad(log_p.sum(), parameters):
            assert bool(gradient.isfinite().all())
        assert bool(px.sample((50,)).isfinite().all())


def test_far_out_in_the_tail_float32_is_float64() -> None:
    """30 scales from the location, where the difference of two sigmoids is 0 in float32."""
    one = [torch.zeros(1), torch.zeros(1), torch.tensor([-3.7])]
    x = torch.tensor(220 / 255)
    narrow = DiscretizedLogisticMixture(*one, levels=256).log_prob(x)
    wide = DiscretizedLogisticMixture(*(v.double() for v in one), levels=256).log_prob(x.double())
    assert wide.item() < -29
    assert narrow.item() == pytest.approx(wide.item(), rel=1e-5)


def test_a_component_without_width_is_a_level() -> None:
    px = DiscretizedLogisticMixture(torch.zeros(1), torch.tensor([0.5]), torch.tensor([-15.0]), 5)
    assert px.log_prob(torch.tensor(0.75)).item() == pytest.approx(0, abs=1e-6)
