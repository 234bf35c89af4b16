"""Examples far from all training data: q(z|x) is refined for each of them by itself, in float64.

An encoder says nothing about an entry a thousand standard deviations away. Its log-variance goes on
as it went, so that the scale of q runs to 0 or to infinity, and no number of draws from there finds
where p(x, z) lies. So q is only a start there. From its mean, which is not cut, and from draws of
the prior at many distances, Newton's method climbs log p(x, z); of the modes it finds the highest
is taken, and the curvature there is the scale:

    q*(z|x) = N(m, C),    m = argmax_z log p(x, z),    C^-1 = -d²/dz² log p(x, m)

(Laplace's approximation.) It bounds the scale from both sides: by the curvature, and by the spread
of the prior. log p(x) is estimated by importance-weighted draws from it, as from any other q, so
that in expectation the estimate is a lower bound here too. Rate and distortion are those of the
best q of the model's own family at m: for independent entries, the variances are 1 over the
diagonal of C^-1.

A step of fixed length, as :func:`~lowerbound.evaluation.refined` takes, would not come to a mode
that lies at z = 10^5, and precision of float32 would not find its place.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from lowerbound.compatibility import FACTORISED, REALS
from lowerbound.distributions import EntrywiseNormal, FullNormal
from lowerbound.draw import Draw
from lowerbound.model import Model
from lowerbound.models.vae import VAE
from lowerbound.roles import Context
from lowerbound.shapes import numel
from lowerbound.supports import COUNTS, INTEGER, REAL, Columns
from lowerbound.units import Standardizer

# Standard deviations from the mean of the training data beyond which an entry is far. n training
# examples hold no entry beyond sqrt(n), so that nothing in a table of 100 rows is far; in larger
# ones a few rows in a thousand are (docs/correctness.md). The bound is in the units that a model
# keeps, and not the largest value seen, for which every saved model would need another array; and
# what is far and yet well known to the encoder is left as it is (log_marginal.GAIN).
FAR = 10.0
RAYS = 16  # draws of the prior, each of which gives a direction from its mean
PER_DECADE = 2  # distances along each direction, from the spread of the prior on
CLIMBING = 4  # of these starts, beside the mean of q and that of the prior, the highest that climb
STEPS = 60  # of Newton's method, which needs some ten where the decoder is a piecewise linear one
# nats, relative to log p(x, z): a gain below which a mode counts as reached
REACHED = 1e-10
AT_ONCE = 32  # examples that climb together


def is_far(model: Callable[..., Draw], x: Tensor, context: Context | None = None) -> Tensor:
    """Which examples have an observed entry far from all training data, (B,), on the CPU.

    Entries that are bounded, as levels and classes are, are never far; a count is no nearer to the
    mean than its distance in whole numbers, so that a rare one is not far either.

    Args:
        model: the model; one that keeps no units, or is no :class:`~lowerbound.model.Model`, says
            of no example that it is far.
        x: examples, (B, *X).
        context: with the mask of what is observed.

    Example:
        >>> import lowerbound as lb
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal((1,)),
        ...     posterior=lb.posteriors.DiagonalNormal((2,), (1,)),
        ...     likelihood=lb.likelihoods.Normal((1,), (2,)),
        ... )
        >>> model.learn_units(torch.randn(100, 2))
        >>> is_far(model, torch.tensor([[0.5, -0.5], [0.5, 1e4]]))
        tensor([False,  True])
    """
    standardizer = _standardizer(model) if isinstance(model, Model) else None
    if standardizer is None or not isinstance(model, Model) or not model.likelihood.is_density:
        return torch.zeros(len(x), dtype=torch.bool)
    loc, scale = (
        value.cpu().double().flatten() for value in (standardizer.loc, standardizer.scale)
    )
    shown = x if context is None else context.to(x.device).observed(x)
    support = model.likelihood.support
    each = support.each if isinstance(support, Columns) else (support,) * len(loc)
    is_whole = torch.tensor([kind is COUNTS or kind is INTEGER for kind in each])
    is_open = torch.tensor([kind is REAL for kind in each]) | is_whole
    spread = torch.where(is_whole, scale.clamp(min=1.0), scale)
    distance = (shown.cpu().double().reshape(len(x), -1) - loc).abs() / spread
    if context is not None and context.mask is not None:
        observed = context.mask.cpu().to(torch.bool).expand(x.shape).reshape(len(x), -1)
        is_open = is_open & observed
    return ((distance > FAR) & is_open).any(1)


def _standardizer(model: Model) -> Standardizer | None:
    """The units of all entries of x: every part that has them learnt the same."""
    return next(
        (
            module
            for module in model.modules()
            if isinstance(module, Standardizer)
            and module.entries is None
            and tuple(module.loc.shape) == tuple(model.x_shape)
        ),
        None,
    )


def usual(model: Model, x: Tensor, far: Tensor) -> Tensor:
    """The examples (B, *X) with the mean of the training data in place of those that are far."""
    standardizer = _standardizer(model)
    if standardizer is None or not bool(far.any()):
        return x
    beside = far.to(x.device).reshape(-1, *[1] * (x.ndim - 1))
    return torch.where(beside, standardizer.loc.to(x), x)


def is_refinable(model: Callable[..., Draw]) -> bool:
    """Whether q can be refined for single examples: one q(z|x) on the real numbers."""
    return isinstance(model, VAE) and REALS in model.posterior.capabilities


class Refinement:
    """q refined for examples that are far, each by itself, on a copy of the model in float64.

    Args:
        model: a model that :func:`is_refinable`; its copy draws from the refined q.
        x: the examples, (B, *X).
        context: labels, mask and the like.
    """

    def __init__(self, model: VAE, x: Tensor, context: Context) -> None:
        device = x.device if x.device.type != "mps" else torch.device("cpu")  # it has no float64
        self.model = copy.deepcopy(model).to(device).double().eval()
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        self.x, self.context = x.to(device).double(), context.to(device)
        with torch.enable_grad(), torch.autocast(device.type, enabled=False):
            parts = [
                self._climbed(slice(start, start + AT_ONCE)) for start in range(0, len(x), AT_ONCE)
            ]
        self.loc = torch.cat([loc for loc, _ in parts])  # (B, d)
        self.precision = torch.cat([precision for _, precision in parts])  # (B, d, d)

    def __len__(self) -> int:
        return len(self.x)

    @contextmanager
    def of(self, i: int, is_in_family: bool = False) -> Iterator[tuple[VAE, Tensor, Context]]:
        """Within the block the copy of the model draws from q refined for example i.

        Args:
            i: which.
            is_in_family: take the best q of the model's own family, where that has independent
                entries, and not the one with all covariances.

        Yields:
            The copy, the example (1, *X) and its context.
        """
        x, context = self.x[i : i + 1], self.context[i : i + 1]
        seen, q = context.observed(x), self._q(i, is_in_family)

        def instead(module: nn.Module, inputs: tuple[Any, ...], output: Distribution) -> Any:
            # a prior may be made of the posterior at other inputs (VampPrior), and stays what it is
            asked = inputs[0]
            return q if asked.shape == seen.shape and torch.equal(asked, seen) else output

        hook = self.model.posterior.register_forward_hook(instead)
        try:
            yield self.model, x, context
        finally:
            hook.remove()

    def _q(self, i: int, is_in_family: bool) -> Distribution:
        shape = self.model.z_shape
        loc, precision = self.loc[i : i + 1], self.precision[i : i + 1]
        if is_in_family and FACTORISED in self.model.posterior.capabilities:
            scale = precision.diagonal(dim1=-2, dim2=-1).rsqrt()
            base = EntrywiseNormal(loc.reshape(1, *shape), scale.reshape(1, *shape))
            return Independent(base, len(shape), validate_args=False)
        values, vectors = torch.linalg.eigh(precision)
        # C = A'A = R'R for A = QR, which needs no factor of a nearly singular matrix
        root = torch.linalg.qr(values.rsqrt()[..., None] * vectors.mT).R.mT
        root = root * root.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
        return FullNormal(loc.reshape(1, *shape), root, shape)

    def _climbed(self, rows: slice) -> tuple[Tensor, Tensor]:
        """The highest mode of log p(x, z) that was found for each of some examples, (b, d), and the
        precision there, (b, d, d).
        """
        x, context = self.x[rows], self.context[rows]
        log_joint = _LogJoint(self.model, x, context)
        starts, spread = self._starts(x, context, log_joint)
        z = _climb(starts, log_joint)
        best = log_joint(z).argmax(0)
        z = z[best, torch.arange(len(x), device=z.device)]
        _, _, curvature = log_joint.expanded(z[None])
        values, vectors = torch.linalg.eigh(curvature[0])
        values = torch.maximum(values.abs(), spread.amax(-1, keepdim=True) ** -2)
        return z, vectors @ (values[..., None] * vectors.mT)

    def _starts(self, x: Tensor, context: Context, log_joint: _LogJoint) -> tuple[Tensor, Tensor]:
        """Where to climb from, (S, b, d), and the spread of the prior, (b, d)."""
        b, d = len(x), numel(self.model.z_shape)
        zero = x.new_zeros(self.model.z_shape)
        priors = [self.model.prior_scale(zero, context[i : i + 1]) for i in range(b)]
        centre = torch.stack([loc.reshape(d) for loc, _ in priors])
        spread = torch.stack([scale.reshape(d) for _, scale in priors])
        draws = torch.stack(
            [self.model.sample_joint(b, context)[1][0].reshape(b, d) for _ in range(RAYS)]
        )
        standardizer = _standardizer(self.model)
        assert standardizer is not None  # without it none is far
        furthest = float(standardizer.standardize(x, context.mask).abs().max())
        decades = max(1, math.ceil(math.log10(furthest)) + 1)
        distances = torch.logspace(0, decades, PER_DECADE * decades + 1, dtype=x.dtype)
        along = [centre + distance * (draws - centre) for distance in distances.tolist()]
        heights = torch.stack([log_joint(z) for z in along])  # (distances, RAYS, b)
        height, at = heights.nan_to_num(nan=-math.inf).max(0)
        rays = torch.stack(along).gather(0, at[None, ..., None].expand(1, *at.shape, d))[0]
        first = height.topk(CLIMBING, 0).indices[..., None].expand(CLIMBING, b, d)
        mean = self.model.encode(x, context).reshape(b, d)
        mean = torch.where(mean.isfinite(), mean, centre)
        return torch.cat([mean[None], centre[None], rays.gather(0, first)]), spread


class _LogJoint:
    """log p(x, z) of some examples in z, flat, without gradients in the parameters."""

    def __init__(self, model: VAE, x: Tensor, context: Context) -> None:
        self.model, self.x, self.context = model, x, context

    def __call__(self, z: Tensor) -> Tensor:
        """(S, b, d) -> (S, b), -inf where it is not a number."""
        latent = z.reshape(*z.shape[:-1], *self.model.z_shape)
        log_p = self.model.log_joint(self.x, (latent,), self.context)
        return log_p.nan_to_num(nan=-math.inf, posinf=-math.inf, neginf=-math.inf)

    def expanded(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Value (S, b), gradient (S, b, d) and minus the second derivative (S, b, d, d) at z."""
        z = z.detach().requires_grad_()
        value = self(z)
        (gradient,) = torch.autograd.grad(value.sum(), z, create_graph=True)
        rows = [
            torch.autograd.grad(entry.sum(), z, retain_graph=True, allow_unused=True)[0]
            for entry in (gradient.unbind(-1) if gradient.requires_grad else ())
        ]
        second = torch.stack(
            [torch.zeros_like(z) if row is None else row for row in rows]
            or [torch.zeros_like(z)] * z.shape[-1],
            -1,
        ).detach()
        second = 0.5 * (second + second.mT)
        return value.detach(), gradient.detach().nan_to_num(), -second.nan_to_num()


def _climb(z: Tensor, log_joint: _LogJoint) -> Tensor:
    """Newton's method from each start, (S, b, d), by steps that are shortened until they go up
    (Levenberg and Marquardt's damping), and by the absolute value of the curvature, so that none
    goes to a saddle.
    """
    value, gradient, curvature = log_joint.expanded(z)
    damping = torch.zeros_like(value)
    for _ in range(STEPS):
        values, vectors = torch.linalg.eigh(curvature)
        values = values.abs()
        largest = values.amax(-1).clamp(min=torch.finfo(z.dtype).tiny)
        slopes = (vectors.mT @ gradient[..., None])[..., 0]
        step = slopes / (values + (damping * largest)[..., None]).clamp(min=1e-12)
        tried = z + (vectors @ step[..., None])[..., 0]
        with torch.no_grad():
            gain = log_joint(tried) - value
        goes_up = gain > 0
        z = torch.where(goes_up[..., None], tried, z)
        damping = torch.where(goes_up, damping / 10, damping.clamp(min=1e-4) * 10)
        damping = torch.where(damping < 1e-6, 0.0, damping)
        is_done = ~goes_up & (damping > 1e6) | goes_up & (gain < REACHED * value.abs())
        if bool(is_done.all()):
            break
        value, gradient, curvature = log_joint.expanded(z)
    return z.detach()


def words(refined: Sequence[int], lost: Sequence[int], n: int) -> list[str]:
    """What a person has to know of examples that are far: nothing, or a line of each kind.

    Args:
        refined: the numbers of those for which q was refined.
        lost: of those without an estimate.
        n: examples in all.

    Example:
        >>> words([], [], 7)
        []
    """
    remarks = []
    if refined:
        remarks.append(
            f"{len(refined):,} of {n:,} examples (numbers {_first(refined)}) are far from all "
            f"training data, beyond {FAR:g} standard deviations from their mean, where the "
            "encoder's q(z|x) is of no use: q was refined for each by itself"
        )
    if lost:
        remarks.append(
            f"{len(lost):,} of {n:,} examples (numbers {_first(lost)}) are far from all training "
            f"data, beyond {FAR:g} standard deviations from their mean, where q(z|x) gives no "
            "finite weights and cannot be refined for this model: no more is known of their log "
            "p(x) than that it is above -inf"
        )
    return remarks


def _first(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")
