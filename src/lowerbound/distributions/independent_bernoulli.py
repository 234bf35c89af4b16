"""p(x) = prod_d p_d^x_d (1 - p_d)^(1 - x_d), with logits l: torch's Bernoulli under Independent, in fewer passes.

    log p(x) = - sum_d log(1 + e^u_d) = - log prod_d (1 + e^u_d),   u_d = (1 - 2 x_d) l_d,   x_d in {0, 1}

torch takes a logarithm of every entry and writes seven arrays of the size of the logits. Where K draws of z are scored under
one x that is a quarter of the evaluation. Here logits are read once, a block at a time that stays in the cache until it is
scored, with one logarithm of a product of many entries. Each factor is as exact as its precision allows, and no large sum is
taken from another. A product overflows where its entries are together less likely than e^-88: then, and where x is grey,
torch's formula is used. So it is where gradients are kept; its sign is then changed after the sum: the same numbers, and an
array less on the way forth and one on the way back.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent
from torch.nn.functional import binary_cross_entropy_with_logits

FACTORS = 32  # of one product: it overflows at 2.8 nats an entry; torch multiplies 32 at a time
BLOCK = 2**17  # entries scored at a time on a CPU: 512 KiB, of a second-level cache of 1 or 2 MiB for each core


class IndependentBernoulli(Independent[Bernoulli]):
    """Independent binary entries: ``Independent(Bernoulli(...), n)``, and the same numbers up to rounding.

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
        logits, n = self.base_dist.logits, self.reinterpreted_batch_ndims
        if self._validate_args:
            self._validate_sample(value)
        if n == 0:
            own: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]  # torch says nothing of it
            return own
        if self._is_fast(value, logits):
            log_p = _by_products(value, logits, n)
            if log_p.isfinite().all():
                return log_p
        value, logits = torch.broadcast_tensors(value, logits)
        return -binary_cross_entropy_with_logits(logits, value, reduction="none").flatten(-n).sum(-1)

    def _is_fast(self, value: Tensor, logits: Tensor) -> bool:
        """Whether there is anything to save, and these numbers are such as the formula is for."""
        return (
            not torch.compiler.is_compiling()  # which makes one pass of torch's formula, and cannot look at values
            and not (torch.is_grad_enabled() and (value.requires_grad or logits.requires_grad))
            and value.dtype == logits.dtype
            and logits.dtype in (torch.float32, torch.float64)  # half precision has too few digits for products
            and all(m in (1, n) for m, n in zip(value.shape[::-1], logits.shape[::-1], strict=False))
            and value.ndim <= logits.ndim
            and bool(((value == 0) | (value == 1)).all())
        )


def _by_products(value: Tensor, logits: Tensor, n: int) -> Tensor:
    """Log p(x), -inf or nan where a product is not finite; the last n dimensions are the event's."""
    signs = (1 - 2 * value).broadcast_to(logits.shape)
    if logits.ndim == n or logits.numel() <= BLOCK or logits.device.type != "cpu":
        return _of_block(logits, signs, n)
    rows = max(1, BLOCK * len(logits) // logits.numel())
    return torch.cat([_of_block(*pair, n) for pair in zip(logits.split(rows), signs.split(rows), strict=True)])


def _of_block(logits: Tensor, signs: Tensor, n: int) -> Tensor:
    factors = torch.mul(logits, signs).exp_().add_(1).flatten(-n)
    whole = factors.shape[-1] // FACTORS * FACTORS
    log_p: Tensor = -factors[..., whole:].prod(-1).log()
    if whole:
        log_p = log_p - factors[..., :whole].unflatten(-1, (-1, FACTORS)).prod(-1).log().sum(-1)
    return log_p
