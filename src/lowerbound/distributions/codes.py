"""Distributions over latents that are put together from the vectors of a codebook, one at each
position.

    CodePoint            p(z) = 1 at one choice of codes, 0 elsewhere
    IndependentCodes     p(z) = prod_i pi_i(k_i)
    AutoregressiveCodes  p(z) = prod_i pi(k_i | k_1 .. k_{i-1})

with k_i the number of the code that stands at position i of z. A value that is put together from
anything else has probability 0. All are discrete: log p is the logarithm of a probability, and
never above 0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution
from torch.distributions.constraints import Constraint

from lowerbound.codebook import Codebook

MAX_LOGITS = 2**24  # logits that are held at a time: 64 MiB in float32


class _OfCodes(Constraint):
    """Values that are put together from the vectors of a codebook."""

    is_discrete = True

    def __init__(self, book: Codebook) -> None:
        self.book = book
        super().__init__()
        self.event_dim = len(book.z_shape)

    def check(self, value: Tensor) -> Tensor:
        return self.book.holds(value)


class Codes(Distribution, ABC):
    """What all have in common: from vectors to numbers and back.

    Args:
        book: the codebook, whose shape is the event shape.
        batch_shape: batch shape.
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    def __init__(self, book: Codebook, batch_shape: torch.Size | tuple[int, ...] = ()) -> None:
        self.book = book
        super().__init__(torch.Size(batch_shape), torch.Size(book.z_shape), validate_args=False)

    @property
    def support(self) -> Constraint:
        return _OfCodes(self.book)

    @abstractmethod
    def log_prob_of(self, index: Tensor) -> Tensor:
        """Log p of the codes of these numbers, (..., P) -> (...)."""

    def log_prob(self, value: Tensor) -> Tensor:
        index = self.book.find(value)
        log_p = self.log_prob_of(index)
        return torch.where(self.book.holds(value, index), log_p, -math.inf)


class CodePoint(Codes):
    """All of the probability at one choice of codes for each example: what vector quantisation
    makes of x.

    Its draws are that choice, exactly. Their gradient goes to the encoder's output as it arrives
    ("straight-through"): the choice itself has none.

    Args:
        book: the codebook.
        index: the numbers of the codes, (B, P).
        encoded: what was quantised, (B, *Z).

    Example:
        >>> encoded = torch.tensor([[0.1, 0.2], [0.9, 0.7]], requires_grad=True)
        >>> qz = CodePoint.nearest(Codebook(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), (2,)), encoded)
        >>> z = qz.rsample()
        >>> z.detach(), qz.log_prob(z), qz.log_prob(encoded)
        (tensor([[0., 0.],
                [1., 1.]]), tensor([0., 0.]), tensor([-inf, -inf]))
        >>> torch.autograd.grad(z.sum(), encoded)
        (tensor([[1., 1.],
                [1., 1.]]),)
    """

    has_rsample = True

    def __init__(self, book: Codebook, index: Tensor, encoded: Tensor) -> None:
        self.index, self.encoded = index, encoded
        super().__init__(book, index.shape[:-1])

    @classmethod
    def nearest(cls, book: Codebook, encoded: Tensor) -> CodePoint:
        """At the codes that are nearest to vectors (B, *Z)."""
        return cls(book, book.find(encoded), encoded)

    @property
    def quantised(self) -> Tensor:
        """The choice, (B, *Z), without a gradient."""
        return self.book.take(self.index).detach()

    @property
    def mean(self) -> Tensor:
        return self.quantised

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self.quantised)

    def log_prob_of(self, index: Tensor) -> Tensor:
        same = (index == self.index).all(-1)
        return torch.where(
            same, torch.zeros((), dtype=self.encoded.dtype, device=same.device), -math.inf
        )

    def log_prob(self, value: Tensor) -> Tensor:
        # by the vectors: of two codes that are the same vector, the number says nothing
        same = self.book.holds(value, self.index)
        return torch.where(
            same, torch.zeros((), dtype=self.encoded.dtype, device=same.device), -math.inf
        )

    # torch says Size alone
    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        # the difference is exactly zero, so that a draw is a code to the last bit
        z = self.quantised + (self.encoded - self.encoded.detach())
        return z.expand(torch.Size(sample_shape) + z.shape)


class IndependentCodes(Codes):
    """A categorical distribution of its own at each position.

    Args:
        book: the codebook.
        logits: log-weights up to a constant, (P, K).

    Example:
        >>> pz = IndependentCodes(Codebook(torch.tensor([[0.0], [2.0]]), (1, 3)), torch.zeros(3, 2))
        >>> pz.mean, pz.variance, pz.log_prob(torch.tensor([[0.0, 2.0, 2.0]])).exp()
        (tensor([[1., 1., 1.]]), tensor([[1., 1., 1.]]), tensor(0.1250))
    """

    def __init__(self, book: Codebook, logits: Tensor) -> None:
        self.log_shares = torch.log_softmax(logits, -1)
        super().__init__(book)

    @property
    def mean(self) -> Tensor:
        return self.book.unrows(self.log_shares.exp() @ self.book.vectors)

    @property
    def variance(self) -> Tensor:
        deviations = self.book.vectors - self.book.rows(self.mean)[:, None]  # (P, K, d)
        return self.book.unrows(
            torch.einsum("pk,pkd->pd", self.log_shares.exp(), deviations.square())
        )

    def log_prob_of(self, index: Tensor) -> Tensor:
        positions = torch.arange(index.shape[-1], device=index.device)
        return self.log_shares[positions, index].sum(-1)

    @torch.no_grad()
    # torch says Size alone
    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        return self.book.take(
            Categorical(logits=self.log_shares, validate_args=False).sample(
                torch.Size(sample_shape)
            )
        )


class AutoregressiveCodes(Codes):
    """The code at each position given those before it, in the order of the flat index. It has no
    formula for its moments.

    Args:
        book: the codebook.
        conditionals: numbers (N, P) -> logits (N, P, K), where those at position i may depend on
            numbers before i alone.
        drawn: n -> numbers (n, P) that have these conditionals.
    """

    def __init__(
        self,
        book: Codebook,
        conditionals: Callable[[Tensor], Tensor],
        drawn: Callable[[int], Tensor],
    ) -> None:
        self.conditionals, self.drawn = conditionals, drawn
        super().__init__(book)

    def log_prob_of(self, index: Tensor) -> Tensor:
        flat = index.reshape(-1, index.shape[-1])
        pieces = flat.split(max(1, MAX_LOGITS // (flat.shape[1] * len(self.book))))
        each = [
            torch.log_softmax(self.conditionals(piece), -1).gather(-1, piece[..., None])
            for piece in pieces
        ]
        return torch.cat(each)[..., 0].sum(-1).reshape(index.shape[:-1])

    @torch.no_grad()
    # torch says Size alone
    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        shape = torch.Size(sample_shape)
        return self.book.take(self.drawn(shape.numel())).reshape(shape + self.event_shape)
