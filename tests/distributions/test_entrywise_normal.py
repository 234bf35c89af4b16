"""The numbers of torch's Normal, and of its KL."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from lowerbound.distributions import EntrywiseNormal, UnitNormal, frozen
from lowerbound.distributions.kl import closed_form_kl, kl_per_dimension


def parameters(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    loc = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    return loc, (0.7 * torch.randn(shape, dtype=torch.float64)).exp().requires_grad_()


def test_it_is_torchs_normal() -> None:
    loc, scale = parameters(4, 3)
    entrywise, other = EntrywiseNormal(loc, scale), Normal(loc, scale)
    assert (entrywise.batch_shape, entrywise.event_shape) == (other.batch_shape, other.event_shape)
    z = torch.randn(2, 4, 3, dtype=torch.float64)
    assert torch.equal(entrywise.log_prob(z), other.log_prob(z))
    torch.manual_seed(0)
    drawn = entrywise.rsample(torch.Size((5,)))
    torch.manual_seed(0)
    assert torch.equal(drawn, other.rsample(torch.Size((5,))))
    assert drawn.requires_grad
    wide = entrywise.expand((2, 4, 3))
    assert isinstance(wide, EntrywiseNormal)
    assert torch.equal(wide.log_prob(z), other.log_prob(z))


@pytest.mark.parametrize("q_shape", [(4, 3), (7, 4, 3), (3,), (1,), ()])
def test_the_kl_to_the_standard_normal_is_torchs(q_shape: tuple[int, ...]) -> None:
    zero, one = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    loc, scale = parameters(*q_shape)
    for kind in (Normal, EntrywiseNormal):
        kl = closed_form_kl(kind(loc, scale), UnitNormal(zero, one))
        assert kl is not None
        expected = kl_divergence(Normal(loc, scale), Normal(zero, one))
        torch.testing.assert_close(kl, expected, rtol=1e-12, atol=1e-12)
        gradients = torch.autograd.grad(kl.square().sum(), (loc, scale))
        for gradient, known in zip(
            gradients, torch.autograd.grad(expected.square().sum(), (loc, scale)), strict=True
        ):
            torch.testing.assert_close(gradient, known, rtol=1e-10, atol=1e-10)


def test_its_entries_are_summed_as_those_of_torchs() -> None:
    loc, scale = parameters(4, 3)
    zero, one = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for n in (0, 1):
        q, p = Independent(EntrywiseNormal(loc, scale), n), Independent(UnitNormal(zero, one), n)
        kl, each = closed_form_kl(q, p), kl_per_dimension(q, p)
        assert kl is not None
        assert each is not None
        expected = kl_divergence(
            Independent(Normal(loc, scale), n), Independent(Normal(zero, one), n)
        )
        torch.testing.assert_close(kl, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(each.sum(-1), kl if n else kl.sum(-1), rtol=1e-12, atol=1e-12)


def test_frozen_it_is_the_same_with_constants() -> None:
    loc, scale = parameters(4, 3)
    q = Independent(EntrywiseNormal(loc, scale), 1)
    constant = frozen(q)
    assert constant is not None
    z = torch.randn(4, 3, dtype=torch.float64)
    assert torch.equal(constant.log_prob(z), q.log_prob(z))
    assert not constant.log_prob(z).requires_grad
