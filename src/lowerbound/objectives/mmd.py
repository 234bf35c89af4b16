"""loss = distortion + beta * rate + weight * MMD^2(q(z), p(z)): the codes of a batch are held to
the prior as a cloud.

With a kernel k, z, z' ~ q(z) = E q(z|x) and y, y' ~ p(z), all independent,

    MMD^2 = E k(z, z') + E k(y, y') - 2 E k(z, y) >= 0,

zero only where q(z) = p(z) for the kernels here, which are sums over several widths h of

    h / (h + |z - z'|^2)      "inverse_multiquadratic"
    exp(-|z - z'|^2 / h)      "gaussian".

Averages over pairs of different examples, and of different draws from the prior, make the estimate
unbiased; so it may be negative. beta = 0 is the Wasserstein autoencoder with weight its lambda,
where the code of one example may have any spread; beta = 1 - alpha and weight = alpha + lambda - 1
is the InfoVAE; beta = 1 adds to the ELBO.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.checks import check_samples
from lowerbound.compatibility import MOVABLE, Capability, Requirement
from lowerbound.distributions import stddev
from lowerbound.draw import Draw
from lowerbound.objective import Objective, Step, Terms
from lowerbound.parallel.shards import all_gather, replicated

Kernel = Literal["inverse_multiquadratic", "gaussian"]


class MMD(Objective):
    """Distortion, a weighted rate, and the maximum mean discrepancy between q(z) and p(z).

    InfoVAE (Zhao, Song and Ermon 2017, arXiv 1706.02262) and WAE-MMD (Tolstikhin, Bousquet, Gelly
    and Schölkopf 2018, arXiv 1711.01558). The log holds ``squared_mmd``, unweighted and without a
    unit, beside the elbo, rate and distortion, each (B,). In validation it is estimated from larger
    batches, without bias there as here. A batch of one example has no pair and adds nothing.

    Time and memory go with (K B)^2.

    Args:
        beta: weight of the rate: 1 - alpha of InfoVAE, 0 of WAE.
        weight: of the squared discrepancy: alpha + lambda - 1 of InfoVAE, lambda of WAE. A
            discrepancy is at most 2 for each width, and a distortion of pictures hundreds of nats,
            so weights are large.
        kernel: "inverse_multiquadratic", whose heavy tails still pull at codes far from the prior,
            or "gaussian".
        scales: widths h, in units of the mean squared distance of two draws from the prior, which
            is 2 D for a standard normal; the kernels are added. The default is that of WAE's
            authors.
        samples: K, draws for each example.

    Raises:
        ValueError: a negative or non-finite weight, an unknown kernel, a width that is not
            positive, no samples; when model and objective meet, several latents, a prior without a
            finite variance, or at beta = 0 one that draws without a gradient.

    Example:
        >>> MMD(beta=1.0, weight=100.0).is_bound, MMD(beta=0.0).is_bound
        (True, False)
        >>> import lowerbound as lb
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal((2,)),
        ...     posterior=lb.posteriors.DiagonalNormal((4,), (2,)),
        ...     likelihood=lb.likelihoods.Bernoulli((2,), (4,)),
        ... )
        >>> terms = MMD().terms(model(torch.ones(5, 4)), Step(progress=0.0, examples=5))
        >>> terms.loss.shape, terms.batch_loss.shape, terms.log["squared_mmd"].shape
        (torch.Size([5]), torch.Size([]), torch.Size([5]))
    """

    batch_statistics: ClassVar[bool] = True
    needs_one_latent: ClassVar[bool] = True

    def __init__(
        self,
        beta: float = 0.0,
        weight: float = 10.0,
        kernel: Kernel = "inverse_multiquadratic",
        scales: Sequence[float] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
        samples: int = 1,
    ) -> None:
        super().__init__()
        for name, value in (("beta", beta), ("weight", weight)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}: it must be a finite number, at least 0")
        if kernel not in get_args(Kernel):
            raise ValueError(
                f"kernel is {kernel!r}; there is {', '.join(map(repr, get_args(Kernel)))}"
            )
        if not scales or not all(0 < scale < math.inf for scale in scales):
            raise ValueError(
                f"scales is {tuple(scales)}: at least one width is needed, and each must be a "
                "positive number"
            )
        check_samples(samples)
        self.beta = beta
        self.weight = weight
        self.kernel: Kernel = kernel
        self.scales = tuple(scales)
        self.samples = samples

    @property
    def is_bound(self) -> bool:
        return self.beta >= 1  # the discrepancy is not negative, and its estimate is not in mean

    @property
    def requirements(self) -> Mapping[Capability, Requirement]:
        learned = Requirement("with beta = 0 trains p(z) through its draws alone", "beta above 0")
        return super().requirements if self.beta else {MOVABLE: learned, **super().requirements}

    def check(self, draw: Draw) -> None:
        super().check(draw)
        p = draw.latents[0].p
        if not math.isfinite(float(width(p))):
            raise ValueError(
                "MMD measures in multiples of the prior's variance, and that of "
                f"{type(p).__name__} is not finite; use StandardNormal or Normal"
            )
        if not self.beta and not p.has_rsample:
            raise ValueError(
                "MMD with beta = 0 trains p(z) through its draws alone, and those of "
                f"{type(p).__name__} have no gradient; use beta above 0, or StandardNormal or "
                "Normal"
            )

    def terms(self, draw: Draw, step: Step) -> Terms:
        latent = draw.latents[0]
        rate = draw.rate
        each = latent.z.shape[1]
        size = torch.Size(() if latent.p.batch_shape else (each,))
        y = latent.p.rsample(size) if latent.p.has_rsample else latent.p.sample(size)
        z, m = all_gather(latent.z, 1), all_gather(draw.log_m.exp().expand(latent.z.shape[:2]), 1)
        discrepancy = self.squared_mmd(
            z, m, all_gather(y), width(latent.p), bool(latent.p.batch_shape)
        )
        loss = draw.distortion + self.beta * rate if self.beta else draw.distortion
        log = {**draw.scores(rate), "squared_mmd": discrepancy.detach().expand(each)}
        return Terms(loss, log, self.weight * discrepancy)

    def squared_mmd(
        self, z: Tensor, m: Tensor, y: Tensor, unit: Tensor, paired: bool = False
    ) -> Tensor:
        """The unbiased estimate from a whole batch, ().

        Args:
            z: draws from q(z|x), (K, B, *Z).
            m: weight of each in an average over K, broadcastable to (K, B).
            y: draws from the prior, (B, *Z).
            unit: what widths are multiples of.
            paired: whether y_b was drawn for example b (a prior with labels), and so is not
                independent of z_b.
        """
        k, b = z.shape[:2]
        if b < 2:
            return z.new_zeros(())
        z, y = z.reshape(k * b, -1), y.reshape(b, -1)
        weights = m.expand(k, b).reshape(-1)
        other = 1 - torch.eye(
            b, dtype=z.dtype, device=z.device
        )  # 1 for pairs of different examples
        within_q = (
            self.similarity(z, z, unit) * other.repeat(k, k) * weights * weights[:, None]
        ).sum()
        within_p = (self.similarity(y, y, unit) * other).sum()
        across = self.similarity(z, y, unit) * weights[:, None]
        pairs = b * (b - 1)
        between = (across * other.repeat(k, 1)).sum() / pairs if paired else across.sum() / b**2
        return (within_q + within_p) / pairs - 2 * between

    def similarity(self, one: Tensor, other: Tensor, unit: Tensor) -> Tensor:
        """The kernel of every pair: (n, D), (m, D) -> (n, m)."""
        norms = one.square().sum(1)[:, None] + other.square().sum(1)
        squares = (norms - 2 * one @ other.T).clamp(min=0)  # rounding may leave it below zero
        widths = [scale * unit for scale in self.scales]
        if self.kernel == "gaussian":
            return torch.stack([torch.exp(-squares / h) for h in widths]).sum(0)
        return torch.stack([h / (h + squares) for h in widths]).sum(0)


@torch.no_grad()
def width(p: Distribution) -> Tensor:
    """The mean squared distance of two draws from a distribution; over a batch of them, on
    average.
    """
    event = tuple(range(-len(p.event_shape), 0))
    with replicated():  # where it is found from draws, all processes find it from the same
        squares = stddev(p).square()
    each = squares.sum(event) if event else squares
    return 2 * (all_gather(each) if p.batch_shape else each).mean()
