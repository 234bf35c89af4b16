"""p(z) = prod_i pi(k_i | k_1 .. k_{i-1}): the code at each position given those before it, by a
causal transformer.

The positions are taken in the order of their flat index, for pictures row by row. One pass gives
the probabilities at all positions, since each looks back only. A sample goes from position to
position, and what earlier ones have shown to later ones is kept.
"""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution
from torch.nn import functional

from lowerbound.codebook import Codebook, matching
from lowerbound.compatibility import CODEBOOK, MOVABLE, Requirement
from lowerbound.distributions import AutoregressiveCodes as AutoregressiveCodesDistribution
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
        self.inner = nn.Sequential(
            nn.Linear(width, WIDER * width), nn.GELU(), nn.Linear(WIDER * width, width)
        )

    def forward(self, h: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The next h, and what it has shown to later positions.

        Args:
            h: at all positions, (N, P, width), or at one where there is a past, (N, 1, width).
            past: what was shown by the positions before: keys and values, (2, N, heads, p, width /
                heads).
        """
        query, *shown = (
            self.asked(self.before(h)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        now = torch.stack(shown) if past is None else torch.cat([past, torch.stack(shown)], 3)
        seen = functional.scaled_dot_product_attention(
            query, now[0], now[1], is_causal=past is None
        )
        h = h + self.answer(seen.transpose(1, 2).flatten(2))
        return h + self.inner(self.between(h)), now


class AutoregressiveCodes(Prior):
    """A causal transformer (Vaswani et al. 2017, arXiv 1706.03762) over the codes of the
    posterior's codebook, in the place of the masked convolutions of van den Oord, Vinyals and
    Kavukcuoglu 2017, arXiv 1711.00937.

    It starts with all codes alike, whatever stood before.

    Args:
        z_shape: Z = (d, *positions), the event shape of the latent.
        codes: K, the size of the posterior's codebook.
        width: of the transformer, a multiple of heads.
        layers: how many.
        heads: of each layer's attention.

    Raises:
        ValueError: no code, a latent size, width, number of layers or heads below 1, or a width
            that the heads do not divide; when called, no posterior, or one without a codebook of
            that size.

    Example:
        >>> from lowerbound.posteriors import VectorQuantised
        >>> prior, posterior = (
        ...     AutoregressiveCodes((16, 2, 2), codes=32),
        ...     VectorQuantised((4,), (16, 2, 2), codes=32),
        ... )
        >>> pz = prior(Context(), posterior)
        >>> pz.sample((5,)).shape, pz.log_prob(pz.sample((5,))).shape
        (torch.Size([5, 16, 2, 2]), torch.Size([5]))
    """

    capabilities = Prior.capabilities - {MOVABLE}
    requirements = MappingProxyType(
        {
            CODEBOOK: Requirement(
                "gives probabilities of codes in a codebook", "the prior that suits its z"
            )
        }
    )

    def __init__(
        self, z_shape: Shape, codes: int = 512, width: int = 128, layers: int = 2, heads: int = 4
    ) -> None:
        super().__init__(z_shape)
        if codes < 1:
            raise ValueError(f"codes is {codes}: a codebook needs at least 1")
        for name, value in (("width", width), ("layers", layers), ("heads", heads)):
            if value < 1:
                raise ValueError(f"{name} is {value}: at least 1 is needed")
        if width % heads:
            raise ValueError(
                f"width is {width}, which {heads} heads do not divide; use a multiple of them"
            )
        self.codes = codes
        self.width = width
        self.layers = layers
        self.heads = heads
        positions = Codebook(torch.zeros(1, 1), self.z_shape).positions
        self.code = nn.Embedding(codes, width)
        self.first = nn.Parameter(
            torch.zeros(width)
        )  # stands where the first position looks back at
        self.position = nn.Parameter(START * torch.randn(positions, width))
        nn.init.normal_(self.code.weight, std=START)
        self.body = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, codes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def conditionals(self, index: Tensor) -> Tensor:
        """Logits of the code at each position given those before: numbers (N, p) of the first p
        positions -> (N, p, K).
        """
        h = torch.cat([self.first.expand(len(index), 1, -1), self.code(index[:, :-1])], 1)
        h = h + self.position[: index.shape[1]]
        for layer in self.body:
            h, _ = layer(h)
        logits: Tensor = self.head(self.norm(h))
        return logits.to(self.first.dtype)  # under autocast a network answers in half precision

    @torch.no_grad()
    def drawn(self, n: int) -> Tensor:
        """Numbers of codes, position by position, (n, P)."""
        past: list[Tensor | None] = [None] * self.layers
        before, index = self.first.expand(n, 1, -1), []
        for position in self.position:
            h = before + position
            for i, layer in enumerate(self.body):
                h, past[i] = layer(h, past[i])
            logits = self.head(self.norm(h)).to(self.first.dtype)
            index.append(Categorical(logits=logits, validate_args=False).sample())
            before = self.code(index[-1])
        return torch.cat(index, 1)

    def forward(self, context: Context, posterior: Posterior | None = None) -> Distribution:
        book = matching(
            None if posterior is None else posterior.codebook(), self.codes, "AutoregressiveCodes"
        )
        return AutoregressiveCodesDistribution(book, self.conditionals, self.drawn)
