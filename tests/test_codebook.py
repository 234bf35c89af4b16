"""Vectors, their numbers, and how evenly they are used."""

from __future__ import annotations

import math

import pytest
import torch

from lowerbound.codebook import Codebook, perplexity
from lowerbound.shapes import Shape


@pytest.mark.parametrize("z_shape", [(), (1,), (3,), (3, 2), (2, 4, 5)])
@pytest.mark.parametrize("leading", [(), (5,), (7, 5)])
def test_what_was_put_together_is_found_again(z_shape: Shape, leading: Shape) -> None:
    book = Codebook(torch.randn(6, z_shape[0] if z_shape else 1), z_shape)
    index = torch.randint(6, (*leading, book.positions))
    z = book.take(index)
    assert z.shape == (*leading, *z_shape)
    assert torch.equal(book.find(z), index)
    assert torch.equal(book.unrows(book.rows(z)), z)
    assert bool(book.holds(z).all())
    assert not bool(book.holds(z + 0.01).any())
    assert not bool(book.holds(z, (index + 1) % 6).any())


def test_the_first_dimension_is_that_of_the_vectors() -> None:
    book = Codebook(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), (2, 1, 3))
    z = book.take(torch.tensor([0, 1, 0]))
    assert torch.equal(z, torch.tensor([[[1.0, 3.0, 1.0]], [[2.0, 4.0, 2.0]]]))


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_the_nearest_is_found_also_far_from_the_origin(offset: float) -> None:
    vectors, z = torch.randn(50, 3).double() + offset, torch.randn(400, 3).double() + offset
    by_hand = ((z[:, None] - vectors) ** 2).sum(-1).argmin(1)
    found = Codebook(vectors.float(), (3,)).find(z.float())[:, 0]
    # two codes as near as rounding tells may be swapped, far out where float32 knows a thousandth
    assert (found == by_hand).double().mean() > (0.99 if offset else 0.9999)


def test_perplexity_counts_codes_that_are_used_alike() -> None:
    assert perplexity(torch.full((64,), 7)) == pytest.approx(64)
    assert perplexity(torch.tensor([0, 12, 0])) == 1
    assert perplexity(torch.tensor([3, 3, 0, 0])) == pytest.approx(2)
    shares = torch.tensor([0.5, 0.25, 0.125, 0.125])
    assert perplexity(64 * shares) == pytest.approx(math.exp(1.75 * math.log(2)))


def test_counts_are_those_of_every_position_of_every_example() -> None:
    index = torch.tensor([[0, 3, 3], [1, 3, 0]])
    assert Codebook(torch.randn(5, 2), (2, 3)).counts(index).tolist() == [2, 1, 0, 3, 0]
