"""q(z|x) = 1 at the codes nearest to e(x), one of K learned vectors at each position, and 0
elsewhere.

With k_i = argmin_k |e_i(x) - c_k|^2 and z_i = c_{k_i}, log q(z|x) = 0, so that the rate is -log
p(z), the nats that it takes to say which codes they are, and

    elbo = log p(x|z) + log p(z) = log p(x, z) <= log sum_z p(x, z) = log p(x),

a lower bound on the evidence of a model whose latent is discrete. The choice has no gradient. The
decoder's is handed to the encoder as it is (straight-through), and a penalty, the commitment, keeps
e(x) near its codes:

    commitment * sum_i |e_i(x) - c_{k_i}|^2

The codes follow what is assigned to them, as in k-means over a running window. With n_k the share
of a batch's vectors that are nearest to c_k, and s_k their sum over the number of all,

    N_k <- decay N_k + (1 - decay) n_k,    m_k <- decay m_k + (1 - decay) s_k,    c_k = m_k / N_k

so that c_k <- c_k + (1 - decay) (s_k - n_k c_k) / N_k, which is how it is done here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.codebook import Codebook
from lowerbound.compatibility import CODEBOOK, REPARAMETERISED, SAMPLED, UNCONDITIONED, WEIGHABLE
from lowerbound.distributions import CodePoint
from lowerbound.networks import MLP
from lowerbound.parallel.shards import all_gather, replicated
from lowerbound.roles import Context, LatentSample, Posterior
from lowerbound.shapes import NetworkFactory, Shape, over_leading
from lowerbound.units import Standardizer
from lowerbound.utils.modes import evaluating

# of the vectors' spread: what a code that starts at one of them is moved by, so that no two are the
# same
NOISE = 0.01
ENCODED_AT_ONCE = 100  # examples that are encoded at a time to start the codes from


class VectorQuantised(Posterior):
    """Vector quantisation (van den Oord, Vinyals and Kavukcuoglu 2017, arXiv 1711.00937), with a
    codebook that follows running means (there appendix A.1; Razavi, van den Oord and Vinyals 2019,
    arXiv 1906.00446).

    A latent of shape (d, *positions) is a code of d entries at each position: (16,) is one code for
    all of x, (64, 7, 7) a picture of 7 x 7 codes. The prior is one over codes (IndependentCodes,
    AutoregressiveCodes). The rate's gradient reaches the prior alone: it is learned beside the rest
    without a say in it, as a prior that is fitted afterwards. There is no noise in q, so that K
    draws are one.

    ``fit`` starts the codes at encoded training examples, before the first step of a model that has
    never been trained. In training mode each pass moves the codes once and quantises with those
    that it has moved; in evaluation mode they stay. A code that is hardly used any more starts
    again at a vector of the batch (Dhariwal et al. 2020, arXiv 2005.00341), drawn by torch's global
    generator. Codes, shares and all, are saved with the weights. Each epoch's log holds
    ``commitment``, ``codes_perplexity`` and ``codes_used``, the number of codes that occurred.

    Args:
        x_shape: X, the event shape of the data.
        z_shape: Z = (d, *positions), the event shape of the latent.
        codes: K, the size of the codebook.
        decay: weight of the past in the running means; 0.99 averages over about the last 100
            batches.
        commitment: weight of the squared distance of the encoder's output to its code, summed over
            the latent, in nats; it only has to keep the output from drifting away, and results
            hardly depend on it (van den Oord et al., 3.2).
        restart: a code that is used less often than this share of the mean starts again; 0 never
            starts one again.
        network: makes the module X -> Z, what is quantised.

    Raises:
        ValueError: no code, a decay outside [0, 1), a negative commitment, a restart outside [0,
            1), a size below 1, or a network that returns another shape.

    Example:
        >>> posterior = VectorQuantised((1, 8, 8), (16, 2, 2), codes=32)
        >>> qz = posterior(torch.rand(5, 1, 8, 8), Context())
        >>> qz.sample().shape, qz.log_prob(qz.sample()), posterior.usage(qz).sum()
        (torch.Size([5, 16, 2, 2]), tensor([0., 0., 0., 0., 0.]), tensor(20))
    """

    capabilities = frozenset(
        {REPARAMETERISED, WEIGHABLE, SAMPLED, CODEBOOK, UNCONDITIONED}
    )  # a point: no density, and nothing elsewhere
    batch_statistics = True
    vectors: Tensor
    shares: Tensor
    is_prepared: Tensor

    def __init__(
        self,
        x_shape: Shape,
        z_shape: Shape,
        codes: int = 512,
        decay: float = 0.99,
        commitment: float = 0.25,
        restart: float = 0.03,
        network: NetworkFactory = MLP,
    ) -> None:
        super().__init__(x_shape, z_shape)
        if codes < 1:
            raise ValueError(f"codes is {codes}: a codebook needs at least 1")
        for name, value in (("decay", decay), ("restart", restart)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 0 and below 1")
        if not 0 <= commitment < math.inf:
            raise ValueError(
                f"commitment is {commitment}: the weight of the penalty must be a finite number, "
                "at least 0"
            )
        self.codes = codes
        self.decay = decay
        self.commitment = commitment
        self.restart = restart
        self.standardizer = Standardizer(self.x_shape)
        self.network = network
        self.net = network(self.x_shape, self.z_shape)
        self.register_buffer("vectors", torch.randn(codes, self.z_shape[0] if self.z_shape else 1))
        self.register_buffer("shares", torch.full((codes,), 1 / codes))
        self.register_buffer(
            "is_prepared", torch.tensor(False)
        )  # saved: that the codes are not to be started again

    def codebook(self) -> Codebook:
        # a copy: training moves the vectors in place, under whoever holds an earlier draw
        return Codebook(self.vectors.clone(), self.z_shape)

    @torch.no_grad()
    def prepare(self, x: Tensor) -> None:
        """Start the codes at vectors of training examples (n, *X), unless that has been done
        before.
        """
        if self.is_prepared:
            return
        chosen = x[torch.randperm(len(x))[: self.codes]].to(self.vectors.device)
        with evaluating(self):
            rows = torch.cat(
                [
                    self._rows(self._encoded(batch, Context()))
                    for batch in chosen.split(ENCODED_AT_ONCE)
                ]
            )
        self.vectors.copy_(self._starts(rows))
        self.is_prepared.fill_(True)

    def forward(self, x: Tensor, context: Context) -> Distribution:
        encoded = self._encoded(x, context)
        if self.training:
            whole = all_gather(encoded.detach())
            with replicated():
                self._follow(self._rows(whole))
        return CodePoint.nearest(self.codebook(), encoded)

    def draw_latent(
        self, qz: Distribution, samples: int, reparameterised: bool, training: bool
    ) -> LatentSample:
        """The one value that z has."""
        one = torch.Size((1,))
        return LatentSample(
            qz.rsample(one) if reparameterised else qz.sample(one), is_enumerated=True
        )

    def penalties(self, qz: Distribution) -> Mapping[str, Tensor]:
        assert isinstance(qz, CodePoint)
        distance = (qz.encoded - qz.quantised).square().reshape(len(qz.encoded), -1).sum(1)
        return {"commitment": self.commitment * distance}

    def usage(self, qz: Distribution) -> Tensor:
        assert isinstance(qz, CodePoint)
        return qz.book.counts(qz.index)

    def _encoded(self, x: Tensor, context: Context) -> Tensor:
        """e(x), (B, *Z)."""
        return over_leading(
            self.net, self.standardizer.standardize(x, context.mask), self.x_shape, self.z_shape
        )

    def _rows(self, encoded: Tensor) -> Tensor:
        """Its vectors, (B P, d)."""
        return (
            Codebook(self.vectors, self.z_shape)
            .rows(encoded)
            .reshape(-1, self.vectors.shape[1])
            .to(self.vectors)
        )

    def _starts(self, rows: Tensor) -> Tensor:
        """As many vectors as there are codes, out of some (n, d): different ones, while there are
        enough.
        """
        order = torch.randperm(len(rows), device=rows.device)
        chosen = rows[order[torch.arange(self.codes, device=rows.device) % len(rows)]]
        return chosen + NOISE * rows.std(0, correction=0) * torch.randn_like(chosen)

    @torch.no_grad()
    def _follow(self, rows: Tensor) -> None:
        """Move the codes towards the vectors of a batch, (n, d), and start those again that are
        hardly used.

        Nothing here waits for the device.
        """
        book = Codebook(self.vectors, (self.vectors.shape[1],))
        index = book.find(rows)[:, 0]
        used = book.counts(index).to(rows) / len(rows)
        sums = torch.zeros_like(self.vectors).index_add_(0, index, rows) / len(rows)
        shares = self.decay * self.shares + (1 - self.decay) * used
        # a code that is not used stays where it is, also where its share has become too small to
        # divide by
        step = torch.where(used > 0, (1 - self.decay) / shares, 0.0)
        vectors = self.vectors + step[:, None] * (sums - used[:, None] * self.vectors)
        dead = (used == 0) & (shares < self.restart / self.codes)
        vectors = torch.where(dead[:, None], self._starts(rows), vectors)
        shares = torch.where(dead, 1 / self.codes, shares)
        # a batch that breaks the network breaks this step, which training skips, and not the codes
        # for good
        sound = rows.isfinite().all()
        self.vectors.copy_(torch.where(sound, vectors, self.vectors))
        self.shares.copy_(torch.where(sound, shares, self.shares))
