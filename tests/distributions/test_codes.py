"""Distributions over codes: probabilities of every choice, and draws that have them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from lowerbound.codebook import Codebook
from lowerbound.distributions import AutoregressiveCodes, CodePoint, IndependentCodes, mean
from lowerbound.distributions.codes import Codes

CODES, POSITIONS = 3, 2
BOOK = Codebook(torch.randn(CODES, 2, generator=torch.Generator().manual_seed(0)), (2, POSITIONS))
EVERY = torch.tensor(list(itertools.product(range(CODES), repeat=POSITIONS)))
TABLE = torch.randn(CODES + 1, CODES, generator=torch.Generator().manual_seed(1))


def in_turn(index: Tensor) -> Tensor:
    """Logits of a chain in which each code depends on the one before it."""
    before = torch.cat([torch.full_like(index[:, :1], CODES), index[:, :-1]], 1)
    return TABLE[before]


def drawn(n: int) -> Tensor:
    """Numbers of that chain, one after the other."""
    index = torch.zeros(n, 0, dtype=torch.long)
    for _ in range(POSITIONS):
        index = torch.cat([index, index.new_zeros(n, 1)], 1)
        index[:, -1] = torch.distributions.Categorical(logits=in_turn(index)[:, -1]).sample()
    return index


def kinds() -> list[Codes]:
    return [IndependentCodes(BOOK, TABLE[:POSITIONS]), AutoregressiveCodes(BOOK, in_turn, drawn)]


@pytest.mark.parametrize("p", kinds(), ids=lambda p: type(p).__name__)
def test_the_probabilities_of_all_choices_sum_to_one(p: Codes) -> None:
    assert p.log_prob(BOOK.take(EVERY)).exp().sum().item() == pytest.approx(1)


@pytest.mark.parametrize("p", kinds(), ids=lambda p: type(p).__name__)
def test_draws_are_as_frequent_as_probable(p: Codes) -> None:
    n = 20_000
    torch.manual_seed(0)
    z = p.sample((n,))
    assert bool(p.support.check(z).all())
    rows = (BOOK.find(z)[:, None] == EVERY).all(-1).double().mean(0)
    probability = p.log_prob(BOOK.take(EVERY)).exp().double()
    assert bool(
        ((rows - probability).abs() < 4.5 * (probability * (1 - probability) / n).sqrt()).all()
    )


def test_a_chain_is_the_product_of_its_conditionals() -> None:
    log_p = torch.log_softmax(TABLE, -1)
    p = AutoregressiveCodes(BOOK, in_turn, drawn)
    for index in EVERY:
        expected = log_p[CODES, index[0]] + log_p[index[0], index[1]]
        assert p.log_prob(BOOK.take(index)).item() == pytest.approx(expected.item(), rel=1e-5)


def test_moments_are_those_of_the_enumerated_values() -> None:
    p = IndependentCodes(BOOK, TABLE[:POSITIONS])
    z = BOOK.take(EVERY)
    weight = p.log_prob(z).exp()[:, None, None]
    average = (weight * z).sum(0)
    assert torch.allclose(p.mean, average, atol=1e-6)
    assert torch.allclose(p.variance, (weight * (z - average) ** 2).sum(0), atol=1e-6)
    assert mean(AutoregressiveCodes(BOOK, in_turn, drawn)).shape == (2, POSITIONS)  # by draws


@pytest.mark.parametrize("p", kinds(), ids=lambda p: type(p).__name__)
def test_anything_but_codes_has_no_probability(p: Codes) -> None:
    z = BOOK.take(EVERY) + torch.tensor([0.0, 0.01])
    assert bool((p.log_prob(z) == -math.inf).all())
    assert p.support.is_discrete
    assert not bool(p.support.check(z).any())


def test_a_point_is_its_code_to_the_last_bit_and_hands_gradients_on() -> None:
    encoded = (100 * torch.randn(4, 2, POSITIONS)).requires_grad_()
    q = CodePoint.nearest(BOOK, encoded)
    z = q.rsample((3,))
    assert torch.equal(z, BOOK.take(BOOK.find(encoded)).expand(3, -1, -1, -1))
    assert torch.equal(q.log_prob(z), torch.zeros(3, 4))
    weights = torch.randn(3, 4, 2, POSITIONS)
    (gradient,) = torch.autograd.grad((weights * z).sum(), encoded)
    assert torch.allclose(gradient, weights.sum(0))
    others = (q.index + 1) % CODES
    assert bool((q.log_prob(BOOK.take(others)) == -math.inf).all())
