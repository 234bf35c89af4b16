"""The numbers of torch's Bernoulli, whatever the shapes and however certain it is."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Bernoulli, Independent

from lowerbound.distributions import IndependentBernoulli, RelativeBernoulli
from lowerbound.distributions.independent_bernoulli import BLOCK, FACTORS


def pair(logits: torch.Tensor, n: int) -> tuple[IndependentBernoulli, Independent]:
    base = Bernoulli(logits=logits, validate_args=False)
    return IndependentBernoulli(base, n, validate_args=False), Independent(
        base, n, validate_args=False
    )


@pytest.mark.parametrize(
    "event", [(1,), (FACTORS - 1,), (FACTORS,), (2 * FACTORS + 3,), (1, 28, 28)]
)
@pytest.mark.parametrize("scale", [0.1, 3.0, 40.0])
def test_the_same_numbers_as_torchs(event: tuple[int, ...], scale: float) -> None:
    logits = scale * torch.randn(4, 3, *event)
    for x in (
        (torch.rand(3, *event) < 0.3).float(),
        torch.rand(3, *event),
    ):  # a score takes grey values too
        fast, _ = pair(logits, len(event))
        _, exact = pair(logits.double(), len(event))
        expected = exact.log_prob(x.double())
        rounding = torch.finfo(torch.float32).eps * (
            logits.abs().flatten(2).sum(-1) + logits[0, 0].numel()
        )
        assert ((fast.log_prob(x).double() - expected).abs() <= rounding).all()
        double, _ = pair(logits.double(), len(event))
        assert torch.allclose(double.log_prob(x.double()), expected, rtol=1e-12, atol=1e-10)


def test_certainty_costs_nothing_and_an_error_costs_its_logit() -> None:
    x = torch.tensor([1.0, 0.0]).repeat(500)
    right, _ = pair(torch.tensor([200.0, -200.0]).repeat(500), 1)
    wrong, _ = pair(torch.tensor([-200.0, 200.0]).repeat(500), 1)
    assert right.log_prob(x) == 0
    assert wrong.log_prob(x) == -200_000
    even, _ = pair(torch.zeros(1000), 1)  # the smallest factors that there are
    assert torch.allclose(even.log_prob(x), -1000 * torch.tensor(2.0).log())


@pytest.mark.parametrize("batch", [(3 * BLOCK // 5, 1), (7, BLOCK // 5)])
def test_blocks_are_no_other_numbers(batch: tuple[int, ...]) -> None:
    logits = torch.randn(*batch, 5)
    for x in (
        torch.rand(5).round(),
        torch.rand(batch[1], 5).round(),
        torch.rand(*batch, 5).round(),
    ):
        fast, slow = pair(logits, 1)
        assert torch.allclose(fast.log_prob(x), slow.log_prob(x), atol=1e-5)
        assert torch.equal(
            fast.log_prob(x)[-1:], pair(logits[-1:], 1)[0].log_prob(x if x.ndim < 3 else x[-1:])
        )


def test_one_overflowing_product_leaves_all_numbers_right() -> None:
    logits = torch.randn(3, FACTORS)
    logits[1] = -10.0
    fast, slow = pair(logits, 1)
    assert torch.allclose(
        fast.log_prob(torch.ones(FACTORS)), slow.log_prob(torch.ones(FACTORS)), atol=1e-4
    )


def test_gradients_are_torchs() -> None:
    logits, x = torch.randn(2, 3, 5, requires_grad=True), torch.rand(3, 5).round()
    fast, slow = pair(logits, 1)
    assert torch.equal(fast.log_prob(x), slow.log_prob(x))
    ours, theirs = (torch.autograd.grad(px.log_prob(x).sum(), logits)[0] for px in (fast, slow))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_broadcasts_as_torch_does(n: int) -> None:
    fast, slow = pair(torch.randn(3, 5), n)
    for x in (torch.ones(5), torch.ones(3, 5), torch.ones(7, 3, 5)):
        assert torch.allclose(fast.log_prob(x), slow.log_prob(x), atol=1e-5)


def test_what_is_not_finite_stays_so() -> None:
    fast, slow = pair(torch.tensor([[torch.nan, 0.0], [torch.inf, 0.0], [0.0, -torch.inf]]), 1)
    assert not fast.log_prob(torch.tensor([1.0, 0.0])).isfinite().any()
    assert not slow.log_prob(torch.tensor([1.0, 0.0])).isfinite().any()


def test_it_stays_itself_when_expanded_and_validates_as_torch_does() -> None:
    px = IndependentBernoulli(Bernoulli(logits=torch.zeros(3)), 1)
    assert isinstance(px.expand((4,)), IndependentBernoulli)
    assert px.expand((4,)).log_prob(torch.ones(3)).shape == (4,)
    with pytest.raises(ValueError, match="support"):
        px.log_prob(torch.tensor([0.5, 0.0, 1.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_a_base_is_no_other_number_than_its_sum(dtype: torch.dtype, scale: float) -> None:
    relative, base = (
        (scale * torch.randn(7, 3, 2 * FACTORS + 3)).to(dtype),
        torch.randn(2 * FACTORS + 3),
    )
    x = torch.rand(3, len(base)).round()
    px = IndependentBernoulli(RelativeBernoulli(relative, base), 1, validate_args=False)
    all_reduce_sum, _ = pair(base + relative, 1)
    assert torch.allclose(px.log_prob(x), all_reduce_sum.log_prob(x), rtol=1e-5, atol=1e-4)
    assert torch.equal(px.mean, all_reduce_sum.mean)
    assert torch.equal(px.expand((2, 7, 3)).mean[1], px.mean)
    torch.manual_seed(0)
    draws = px.sample((2,))
    torch.manual_seed(0)
    assert torch.equal(draws, all_reduce_sum.sample((2,)))


def test_gradients_reach_what_is_relative_and_the_base() -> None:
    relative, base, x = torch.randn(2, 3, 5), torch.randn(5), torch.rand(3, 5).round()
    slope = x - (base + relative).sigmoid()
    for learned, expected in ((relative, slope), (base, slope.sum((0, 1)))):
        px = IndependentBernoulli(RelativeBernoulli(relative, base), 1, validate_args=False)
        learned.requires_grad_()
        (ours,) = torch.autograd.grad(px.log_prob(x).sum(), learned)
        assert torch.allclose(ours, expected, atol=1e-6)
        learned.requires_grad_(False)
