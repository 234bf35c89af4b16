"""p(z) = prod_i pi(k_i | k_1 .. k_{i-1}): the code at each position given those before it, by a causal transformer.

The positions are taken in the order of their flat index, for pictures row by row. One pass gives the probabilities at all
positions, since each looks back only; a sample takes a pass for each position.
"""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional

from lowerbound.codebook import Codebook, matching
from lowerbound.distributions import AutoregressiveCodes as AutoregressiveCodesDistribution
from lowerbound.needs import CODEBOOK, Need
from lowerbound.roles import Context, Posterior, Prior
from lowerbound.shapes import Shape

START = 0.02  # scale at which embeddings start, as in GPT-2: small beside what the layers add
WIDER = 4  # how much wider the inner layer behind each attention is, as in the paper


class Layer(nn.Module):
    """h + attention(h), then h + MLP(h), both after a normalisation; no position sees a later one.

    Args:
        width: of h.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.asked, self.answer = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner = nn.Sequential(nn.Linear(width, WIDER * width), nn.GELU(), nn.Linear(WIDER * width, width))

    def forward(self, h: Tensor) -> Tensor:
        query, key, value = self.asked(self.before(h)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        h = h + self.answer(seen.transpose(1, 2).flatten(2))
        result: Tensor = h + self.inner(self.between(h))
        return result


class AutoregressiveCodes(Prior):
    """A causal transformer (Vaswani et al. 2017, arXiv 1706.03762) over the codes of the posterior's codebook, in the place
    of the masked convolutions of van den Oord, Vinyals and Kavukcuoglu 2017, arXiv 1711.00937.

    It starts with all codes alike, whatever stood before.

    Args:
        z_shape: Z = (d, *positions), the event shape of the latent.
        codes: K, the size of the posterior's codebook.
        width: of the transformer, a multiple of heads.
        layers: how many.
        heads: of each layer's attention.

    Raises:
        ValueError: no code, a latent size, width, number of layers or heads below 1, or a width that the heads do not
            divide; when called, no posterior, or one without a codebook of that size.

    Example:
        >>> from lowerbound.posteriors import VectorQuantised
        >>> prior, posterior = AutoregressiveCodes((16, 2, 2), codes=32), VectorQuantised((4,), (16, 2, 2), codes=32)
        >>> pz = prior(Context(), posterior)
        >>> pz.sample((5,)).shape, pz.log_prob(pz.sample((5,))).shape
        (torch.Size([5, 16, 2, 2]), torch.Size([5]))
    """

    needs = MappingProxyType({CODEBOOK: Need("gives probabilities of the codes in a codebook", "StandardNormal")})

    def __init__(self, z_shape: Shape, codes: int = 512, width: int = 128, layers: int = 2, heads: int = 4) -> None:
        super().__init__(z_shape)
        if codes < 1:
            raise ValueError(f"codes is {codes}: a codebook needs at least 1")
        for name, value in (("width", width), ("layers", layers), ("heads", heads)):
            if value < 1:
                raise ValueError(f"{name} is {value}: at least 1 is needed")
        if width % heads:
            raise ValueError(f"width is {width}, which {heads} heads do not divide; use a multiple of them")
        self.codes = codes
        self.width = width
        self.layers = layers
        self.heads = heads
        positions = Codebook(torch.zeros(1, 1), self.z_shape).positions
        self.code = nn.Embedding(codes, width)
        self.first = nn.Parameter(torch.zeros(width))  # stands where the first position looks back at
        self.position = nn.Parameter(START * torch.randn(positions, width))
        nn.init.normal_(self.code.weight, std=START)
        self.body = nn.Sequential(*(Layer(width, heads) for _ in range(layers)), nn.LayerNorm(width))
        self.head = nn.Linear(width, codes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def conditionals(self, index: Tensor) -> Tensor:
        """Logits of the code at each position given those before: numbers (N, p) of the first p positions -> (N, p, K)."""
        before = torch.cat([self.first.expand(len(index), 1, -1), self.code(index[:, :-1])], 1)
        logits: Tensor = self.head(self.body(before + self.position[: index.shape[1]]))
        return logits.to(self.first.dtype)  # under autocast a network answers in half precision

    def forward(self, context: Context, posterior: Posterior | None = None) -> Distribution:
        book = matching(None if posterior is None else posterior.codebook(), self.codes, "AutoregressiveCodes")
        return AutoregressiveCodesDistribution(book, self.conditionals)
