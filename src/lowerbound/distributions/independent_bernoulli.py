"""p(x) = prod_d p_d^x_d (1 - p_d)^(1 - x_d), with logits l: torch's Bernoulli under Independent, in
fewer passes.

    log p(x) = sum_d log sigmoid(u_d) = log prod_d sigmoid(u_d),   u_d = (2 x_d - 1) l_d,   x_d in
    {0, 1}

torch takes a logarithm of every entry and writes seven arrays of the size of the logits. Where K
draws of z are scored under one x that is a quarter of the evaluation. Here logits are read once, a
block at a time that stays in the cache until it is scored, with one logarithm of a product of many
entries. Each factor is as exact as its precision allows, and no large sum is taken from another. A
product leaves the range of floating point where its entries are together less likely than e^-87:
then, and where x is grey, torch's formula is used. So it is where gradients are kept; its sign is
then changed after the sum: the same numbers, and an array less on the way forth and one on the way
back.

Logits that are given as a base and what a network adds to it are not written down as a sum for
this: u_d = (2 x_d - 1) r_d + (2 x_d - 1) b_d is one multiplication and addition, as (2 x_d - 1) l_d
is one multiplication.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent
from torch.nn.functional import binary_cross_entropy_with_logits, threshold

# of one product: it leaves float32 at 2.7 nats an entry; torch multiplies 32 at a time
FACTORS = 32
# entries scored at a time on a CPU: 512 KiB, of a second-level cache of 1 or 2 MiB for each core
BLOCK = 2**17


class RelativeBernoulli(Bernoulli):
    """torch's Bernoulli with logits b + r, which are added up when they are asked for, and not
    looked at.

    Args:
        relative: r, of any shape.
        base: b, which broadcasts to it; None for zero.

    Example:
        >>> px = RelativeBernoulli(torch.tensor([0.0, 2.0]), torch.tensor([1.0, -1.0]))
        >>> px.logits, px.batch_shape
        (tensor([1., 1.]), torch.Size([2]))
    """

    def __init__(self, relative: Tensor, base: Tensor | None = None) -> None:
        self.relative, self.base = relative, base
        self._param = relative  # what torch looks at for shape and device
        Distribution.__init__(self, relative.shape, validate_args=False)

    @property
    def logits(self) -> Tensor:
        return self.relative if self.base is None else self.base + self.relative

    def expand(
        self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: object = None
    ) -> RelativeBernoulli:
        return RelativeBernoulli(self.relative.expand(batch_shape), self.base)


class IndependentBernoulli(Independent[Bernoulli]):
    """Independent binary entries: ``Independent(Bernoulli(...), n)``, and the same numbers up to
    rounding.

    Args:
        base_distribution: torch's Bernoulli.
        reinterpreted_batch_ndims: how many of its dimensions are the event's.
        validate_args: as in torch.

    Example:
        >>> base = Bernoulli(logits=torch.tensor([0.0, 2.0]))
        >>> px, x = IndependentBernoulli(base, 1), torch.tensor([1.0, 1.0])
        >>> with torch.no_grad():
        ...     px.log_prob(x), Independent(base, 1).log_prob(x)
        (tensor(-0.8201), tensor(-0.8201))
    """

    def log_prob(self, value: Tensor) -> Tensor:
        n = self.reinterpreted_batch_ndims
        if self._validate_args:
            self._validate_sample(value)
        if n == 0:
            # torch says nothing of it
            entries: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]
            return entries
        relative, base = _parts(self.base_dist)
        if self._is_fast(value, relative, base):
            log_p = _by_products(value, relative, base, n)
            if log_p.isfinite().all():
                return log_p
        value, logits = torch.broadcast_tensors(value, self.base_dist.logits)
        return (
            -binary_cross_entropy_with_logits(logits, value, reduction="none").flatten(-n).sum(-1)
        )

    def _is_fast(self, value: Tensor, logits: Tensor, base: Tensor | None) -> bool:
        """Whether there is anything to save, and these numbers are such as the formula is for."""
        tensors = [value, logits, *([] if base is None else [base])]
        dtype = logits.dtype if base is None else torch.promote_types(logits.dtype, base.dtype)
        return (
            # which makes one pass of torch's formula, and cannot look at values
            not torch.compiler.is_compiling()
            and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
            and value.dtype == dtype
            and dtype
            in (torch.float32, torch.float64)  # half precision has too few digits for products
            and all(
                m in (1, n) for m, n in zip(value.shape[::-1], logits.shape[::-1], strict=False)
            )
            and value.ndim <= logits.ndim
            and bool(((value == 0) | (value == 1)).all())
        )


def _parts(bernoulli: Bernoulli) -> tuple[Tensor, Tensor | None]:
    """Logits as what is to be read of each draw, and what is the same for all."""
    if isinstance(bernoulli, RelativeBernoulli):
        return bernoulli.relative, bernoulli.base
    return bernoulli.logits, None


def _by_products(value: Tensor, relative: Tensor, base: Tensor | None, n: int) -> Tensor:
    """Log p(x), -inf or nan where a product is not to be trusted; the last n dimensions are the
    event's.
    """
    signs = 2 * value - 1
    shift = signs.new_zeros(()) if base is None else signs * base
    signs, shift = signs.broadcast_to(relative.shape), shift.broadcast_to(relative.shape)
    if relative.ndim == n or relative.numel() <= BLOCK or relative.device.type != "cpu":
        return _of_block(n, relative, signs, shift)
    rows = max(1, BLOCK * len(relative) // relative.numel())
    blocks = zip(*(whole.split(rows) for whole in (relative, signs, shift)), strict=True)
    return torch.cat([_of_block(n, *block) for block in blocks])


def _of_block(n: int, relative: Tensor, signs: Tensor, shift: Tensor) -> Tensor:
    factors = torch.addcmul(shift, relative.to(signs.dtype), signs).sigmoid_().flatten(-n)
    whole = factors.shape[-1] // FACTORS * FACTORS
    log_p = _log(factors[..., whole:].prod(-1))
    if whole:
        log_p = log_p + _log(factors[..., :whole].unflatten(-1, (-1, FACTORS)).prod(-1)).sum(-1)
    return log_p


def _log(product: Tensor) -> Tensor:
    """The logarithm, -inf where a number is so small that it has lost digits."""
    return threshold(product, torch.finfo(product.dtype).tiny, 0.0).log()
