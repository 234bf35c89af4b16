"""p(z) = prod_i pi_i(k_i): the code at each position has learned probabilities of its own, and does
not look at the others.

It starts with all codes alike, the prior of the paper during training, at which the rate is P log K
nats for P positions. It knows nothing of how positions go together, so that its samples of many
positions do not: AutoregressiveCodes does.
"""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import nn
from torch.distributions import Distribution

from lowerbound.codebook import Codebook, matching
from lowerbound.compatibility import CODEBOOK, MOVABLE, Requirement
from lowerbound.distributions import IndependentCodes as IndependentCodesDistribution
from lowerbound.roles import Context, Posterior, Prior
from lowerbound.shapes import Shape


class IndependentCodes(Prior):
    """A categorical distribution over the codes of the posterior's codebook at each position (van
    den Oord, Vinyals and Kavukcuoglu 2017, arXiv 1711.00937, where all codes stay alike in
    training).

    Args:
        z_shape: Z = (d, *positions), the event shape of the latent.
        codes: K, the size of the posterior's codebook.

    Raises:
        ValueError: no code, or a latent size below 1; when called, no posterior, or one without a
            codebook of that size.

    Example:
        >>> from lowerbound.posteriors import VectorQuantised
        >>> prior, posterior = (
        ...     IndependentCodes((16, 2, 2), codes=32),
        ...     VectorQuantised((4,), (16, 2, 2), codes=32),
        ... )
        >>> pz = prior(Context(), posterior)
        >>> -pz.log_prob(pz.sample((5,)))  # 4 log 32
        tensor([13.8629, 13.8629, 13.8629, 13.8629, 13.8629], grad_fn=<NegBackward0>)
    """

    capabilities = Prior.capabilities - {MOVABLE}
    requirements = MappingProxyType(
        {
            CODEBOOK: Requirement(
                "gives probabilities of codes in a codebook", "the prior that suits its z"
            )
        }
    )

    def __init__(self, z_shape: Shape, codes: int = 512) -> None:
        super().__init__(z_shape)
        if codes < 1:
            raise ValueError(f"codes is {codes}: a codebook needs at least 1")
        self.codes = codes
        positions = Codebook(torch.zeros(1, 1), self.z_shape).positions
        self.logits = nn.Parameter(torch.zeros(positions, codes))

    def forward(self, context: Context, posterior: Posterior | None = None) -> Distribution:
        book = matching(
            None if posterior is None else posterior.codebook(), self.codes, "IndependentCodes"
        )
        return IndependentCodesDistribution(book, self.logits)
