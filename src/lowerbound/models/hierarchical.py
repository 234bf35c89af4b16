"""p(x, z_1, .., z_L) = p(x|z_1) p(z_1|z_2) .. p(z_{L-1}|z_L) p(z_L): a chain of latents, z_1 next
to x and z_L at the top.

The posterior is inferred in one of two directions:

    bottom up    q(z|x) = q(z_1|x) q(z_2|z_1) .. q(z_L|z_{L-1})
    top down     q(z|x) = q(z_L|x) q(z_{L-1}|x, z_L) .. q(z_1|x, z_2)

Bottom up is the importance-weighted autoencoder's second architecture. Top down is the ladder: a
deterministic way up, d_1 = f_1(x), d_l = f_l(d_{l-1}), gives what x says of each level, a density
q_l(z_l|d_l), and on the way down that is multiplied by what the level above says, q(z_l|x, z_{l+1})
proportional to q_l(z_l|d_l) p(z_l|z_{l+1}). For normals precisions add, so that a level of which x
says nothing costs nothing: its posterior is its prior. At the top, q(z_L|x) = q_L(z_L|d_L).

    rate = sum_l E_q[log q(z_l|..) - log p(z_l|z_{l+1})]

Top down each term is a KL given the levels above, in closed form where the pair has one, and
averaged over the draws of those levels. Bottom up only that of the top level is; below it,
p(z_l|z_{l+1}) depends on what was drawn from z_l, so that the term is taken from the draws, and may
be negative.

A conditional p(z_l|z_{l+1}) is a distribution of one thing given another, which is what a posterior
part is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.checks import check_samples
from lowerbound.compatibility import EVALUABLE, REALS, REPARAMETERISED, check_composed
from lowerbound.distributions import mean, stddev
from lowerbound.distributions.kl import closed_form_kl
from lowerbound.distributions.normal_product import detached_normal, normal_product
from lowerbound.draw import Draw, Latent
from lowerbound.model import LatentSize, Model, Shapes, again, agree_on_y, check_role
from lowerbound.roles import Context, Likelihood, Part, Posterior, Prior
from lowerbound.shapes import NetworkFactory, Shape, as_shape, numel, over_leading
from lowerbound.units import Standardizer
from lowerbound.utils.messages import unknown
from lowerbound.utils.modes import evaluating
from lowerbound.utils.seeding import random_state

Inference = Literal["bottom_up", "top_down"]
Sampler: TypeAlias = Callable[[Distribution, torch.Size], Tensor]

FEATURES = 128  # values of d_l where none are asked for: some hundred carry what x says of MNIST
EXAMPLES_AT_ONCE = 1000  # examples at a time where all of them are looked at before training


class Hierarchical(Model):
    """A chain of latents (Burda, Grosse and Salakhutdinov 2015, arXiv 1509.00519; Sonderby et al.
    2016, arXiv 1602.02282).

    A draw holds z_1 .. z_L in this order, and logs the rate of each as ``rate/1`` .. ``rate/L``. A
    code is all of them side by side, flat, from posterior means; ``decode`` also takes codes of the
    top levels alone, and sets those below to the means of their conditionals.

    Args:
        prior: p(z_L). One that is made of the posterior is handed that of the top level, and so
            lives where that looks: at z_{L-1} bottom up, at d_L top down.
        posteriors: bottom up q(z_1|x), q(z_2|z_1), ..; top down q_1(z_1|d_1), q_2(z_2|d_2), .., all
            normal.
        conditionals: p(z_1|z_2), p(z_2|z_3), ..; top down all normal.
        likelihood: p(x|z_1).
        features: top down, makes the modules f_1: X -> D_1, f_2: D_1 -> D_2, ..; D_l is what the
            posterior of level l takes.
        inference: the direction, bottom_up or top_down.
        feature_shapes: top down, sizes or shapes of d_1, .., d_L where they are built from a
            configuration; 128 values each where there are none.

    Raises:
        TypeError: a part does not fill the role it was given for.
        ValueError: fewer than two levels, parts whose number or shapes do not fit each other, or
            another direction; when called, densities whose product is not known.

    Example:
        >>> import lowerbound as lb
        >>> conditional = lb.posteriors.DiagonalNormal  # of one thing given another
        >>> model = lb.models.Hierarchical(
        ...     prior=lb.priors.StandardNormal((2,)),  # p(z_2)
        ...     posteriors=[  # q(z_1|x), q(z_2|z_1)
        ...         conditional((1, 8, 8), (8,)),
        ...         conditional((8,), (2,)),
        ...     ],
        ...     conditionals=[conditional((2,), (8,))],  # p(z_1|z_2)
        ...     likelihood=lb.likelihoods.Bernoulli((8,), (1, 8, 8)),  # p(x|z_1)
        ... )
        >>> draw = model(torch.ones(5, 1, 8, 8), samples=3)
        >>> [latent.z.shape for latent in draw.latents]
        [torch.Size([3, 5, 8]), torch.Size([3, 5, 2])]
        >>> code = model.encode(torch.ones(5, 1, 8, 8))
        >>> code.shape, model.decode(code[:, 8:]).shape  # of all levels; from the top one alone
        (torch.Size([5, 10]), torch.Size([5, 1, 8, 8]))
    """

    default_latent: ClassVar[LatentSize] = [32, 8]

    def __init__(
        self,
        prior: Prior,
        posteriors: Sequence[Posterior],
        conditionals: Sequence[Posterior],
        likelihood: Likelihood,
        features: Sequence[NetworkFactory] = (),
        inference: Inference = "bottom_up",
        feature_shapes: Sequence[int | Sequence[int]] = (),
    ) -> None:
        super().__init__()
        check_role(Prior, prior=prior)
        numbered = {f"posteriors.{i}": part for i, part in enumerate(posteriors, 1)}
        numbered |= {f"conditionals.{i}": part for i, part in enumerate(conditionals, 1)}
        check_role(Posterior, **numbered)
        check_role(Likelihood, likelihood=likelihood)
        if inference not in get_args(Inference):
            raise ValueError(unknown("inference", inference, get_args(Inference)))
        for part in (*posteriors, *conditionals):
            for capability in (REALS, REPARAMETERISED, EVALUABLE):
                if capability not in part.capabilities:
                    raise ValueError(
                        "Hierarchical draws each level given the one before, along gradients, and "
                        f"{type(part).__name__} {capability.lack}; use {capability.remedy}"
                    )
        check_composed(prior, posteriors[-1], likelihood)
        agree_on_y(prior=prior, likelihood=likelihood, **numbered)
        levels, is_ladder = len(posteriors), inference == "top_down"
        if levels < 2 or len(conditionals) != levels - 1 or len(features) != levels * is_ladder:
            raise ValueError(
                f"there are {levels} posteriors, {len(conditionals)} conditionals and "
                f"{len(features)} features; L levels, at least 2, need L, L - 1 and, {inference}, "
                f"{'L' if is_ladder else 'none'}"
            )
        above = [part.z_shape for part in posteriors]
        expected = {
            "likelihood": (likelihood.z_shape, above[0]),
            **{
                f"conditionals.{i}": ((part.x_shape, part.z_shape), (above[i], above[i - 1]))
                for i, part in enumerate(conditionals, 1)
            },
            "prior": (prior.z_shape, above[-1]),
        }
        if not is_ladder:
            below = [likelihood.x_shape, *above[:-1]]
            expected |= {
                f"posteriors.{i}": (part.x_shape, below[i - 1])
                for i, part in enumerate(posteriors, 1)
            }
        for name, (shape, wanted) in expected.items():
            if shape != wanted:
                raise ValueError(
                    f"{name} is built for {shape}, and the levels {above} over x "
                    f"{likelihood.x_shape} need {wanted}"
                )
        self.prior = prior
        self.posteriors = _numbered(posteriors)
        self.conditionals = _numbered(conditionals)
        self.likelihood = likelihood
        self.features = tuple(features)
        self.inference: Inference = inference
        self.standardizer = Standardizer(likelihood.x_shape)
        self.ways = nn.ModuleDict()
        if is_ladder:
            inputs = [likelihood.x_shape, *(part.x_shape for part in posteriors)]
            pairs = zip(features, pairwise(inputs), strict=True)
            self.ways.update({str(i): make(*shapes) for i, (make, shapes) in enumerate(pairs, 1)})
        if feature_shapes and self.feature_shapes != [list(as_shape(d)) for d in feature_shapes]:
            raise ValueError(
                f"feature_shapes are {feature_shapes}, and the posteriors take "
                f"{self.feature_shapes}"
            )

    @classmethod
    def shapes(
        cls, slot: str, x_shape: Shape, latent: LatentSize, settings: Mapping[str, Any]
    ) -> Shapes | Sequence[Shapes]:
        if isinstance(latent, int) or len(latent) < 2:
            raise ValueError(
                f"latent is {latent}: a hierarchy has two levels or more, as in [32, 8], z_1 next "
                "to x first"
            )
        levels = [as_shape(size, "latent") for size in latent]
        below, count = [x_shape, *levels[:-1]], 0
        if settings.get("inference", "bottom_up") == "top_down":
            sizes = settings.get("feature_shapes") or [FEATURES] * len(levels)
            if len(sizes) != len(levels):
                raise ValueError(
                    f"feature_shapes holds {len(sizes)} shapes, and there are {len(levels)} levels"
                )
            below, count = [as_shape(size, "feature_shapes") for size in sizes], len(levels)
        shapes: dict[str, Shapes | Sequence[Shapes]] = {
            "prior": {"x_shape": below[-1], "z_shape": levels[-1]},
            "posteriors": [
                {"x_shape": x, "z_shape": z} for x, z in zip(below, levels, strict=True)
            ],
            "conditionals": [{"x_shape": above, "z_shape": z} for z, above in pairwise(levels)],
            "likelihood": {"x_shape": x_shape, "z_shape": levels[0]},
            "features": [{}] * count,
        }
        return shapes[slot]

    @property
    def z_shapes(self) -> tuple[Shape, ...]:
        return tuple(part.z_shape for part in self._posteriors)

    @property
    def feature_shapes(self) -> list[list[int]]:
        """The shapes of d_1, .., d_L; none where inference is from the bottom up."""
        return [list(part.x_shape) for part in self._posteriors] if self.ways else []

    @property
    def _posteriors(self) -> list[Posterior]:
        # a module holds no types of its modules
        return list(self.posteriors.values())  # type: ignore[arg-type]

    @property
    def _conditionals(self) -> list[Posterior]:
        return list(self.conditionals.values())  # type: ignore[arg-type]  # as above

    def forward(
        self,
        x: Tensor,
        context: Context | None = None,
        samples: int = 1,
        path_gradient: bool = False,
        reparameterised: bool = True,
    ) -> Draw:
        check_samples(samples)
        x, context = self._given(x, context)
        walk = self._down if self.ways else self._up
        # its value is that of the ordinary one
        path_gradient = path_gradient and torch.is_grad_enabled()
        latents = walk(x, context, samples, path_gradient, _along if reparameterised else _without)
        px = self.likelihood(latents[0].z, context)
        log_px = self.likelihood.log_prob(px, x, context.mask)
        log_m = torch.full_like(log_px.detach(), -math.log(samples))
        return Draw(latents, px, log_px, log_m, is_density=self.likelihood.is_density)

    def _up(
        self, x: Tensor, context: Context, samples: int, path_gradient: bool, drawn_from: Sampler
    ) -> tuple[Latent, ...]:
        """Draws from the bottom up; densities see an alias of each draw, from which nothing further
        is drawn.
        """
        qs, zs, scored = [], [], []
        below = seen = x
        for i, part in enumerate(self._posteriors):
            beside = context if i == 0 else _above(context)
            before = random_state() if path_gradient else {}
            q = part(below, beside)
            scored.append(again(part, seen, beside, before) if path_gradient else q)
            below = drawn_from(q, torch.Size((samples,) if i == 0 else ()))
            seen = below.view_as(below)
            qs.append(q)
            zs.append(seen)
        ps = [part(z, _above(context)) for part, z in zip(self._conditionals, zs[1:], strict=True)]
        ps.append(self.prior(_above(context), self._posteriors[-1]))
        kls = [None] * (len(zs) - 1) + [closed_form_kl(qs[-1], ps[-1])]
        every = zip(qs, ps, zs, scored, kls, strict=True)
        return tuple(Latent(q, p, z, kl, scored=scoring) for q, p, z, scoring, kl in every)

    def _down(
        self, x: Tensor, context: Context, samples: int, path_gradient: bool, drawn_from: Sampler
    ) -> tuple[Latent, ...]:
        """Draws from the top down, the same way; a conditional is a factor of q too, and there its
        gradient is q's.
        """
        seen, context = self._seen(x, context), _above(context)
        says = [part(d, context) for part, d in zip(self._posteriors[:-1], seen[:-1], strict=True)]
        top, before = self._posteriors[-1], random_state() if path_gradient else {}
        q = scored = top(seen[-1], context)
        if path_gradient:
            scored = again(top, seen[-1].detach(), context, before)
        p = self.prior(context, top)
        drawn = drawn_from(q, torch.Size((samples,)))
        z = drawn.view_as(drawn)
        latents = [Latent(q, p, z, closed_form_kl(q, p), scored=scored)]
        for of_x, part in zip(reversed(says), reversed(self._conditionals), strict=True):
            before = random_state() if path_gradient else {}
            p = part(drawn, context)
            q = scored = normal_product(of_x, p)
            if path_gradient:
                scored = normal_product(detached_normal(of_x), again(part, z, context, before))
                p = again(part, z, context, before, frozen=False)
            drawn = drawn_from(q, torch.Size())
            z = drawn.view_as(drawn)
            latents.insert(0, Latent(q, p, z, closed_form_kl(q, p), scored=scored))
        return tuple(latents)

    def _seen(self, x: Tensor, context: Context) -> list[Tensor]:
        """The features d_1, .., d_L of x, top down."""
        seen, value, before = [], self.standardizer.standardize(x, context.mask), self.x_shape
        for way, part in zip(self.ways.values(), self._posteriors, strict=True):
            value = over_leading(way, value, before, part.x_shape)
            seen.append(value)
            before = part.x_shape
        return seen

    def log_joint(
        self, x: Tensor, latents: tuple[Tensor, ...], context: Context | None = None
    ) -> Tensor:
        x, context = self._given(x, context)
        px = self.likelihood(latents[0], context)
        return self.likelihood.log_prob(px, x, context.mask) + self.log_prior(latents, context)

    def log_prior(self, latents: tuple[Tensor, ...], context: Context | None = None) -> Tensor:
        context = self._beside(context)
        total: Tensor = self.prior(_above(context), self._posteriors[-1]).log_prob(latents[-1])
        for part, (z, above) in zip(self._conditionals, pairwise(latents), strict=True):
            total = total + part(above, _above(context)).log_prob(z)
        return total

    def log_posterior(
        self, x: Tensor, latents: tuple[Tensor, ...], context: Context | None = None
    ) -> Tensor:
        x, context = self._given(x, context)
        with _unmoved(self):
            if self.ways:
                seen, context = self._seen(x, context), _above(context)
                qs = [part(d, context) for part, d in zip(self._posteriors, seen, strict=True)]
                for i, part in enumerate(self._conditionals):
                    qs[i] = normal_product(qs[i], part(latents[i + 1], context))
            else:
                below = [(x, context), *((z, _above(context)) for z in latents[:-1])]
                qs = [part(*seen) for part, seen in zip(self._posteriors, below, strict=True)]
        each = [q.log_prob(z) for q, z in zip(qs, latents, strict=True)]
        total: Tensor = torch.stack(each).sum(0)
        return total

    @torch.no_grad()
    def sample_joint(
        self, n: int, context: Context | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        context = self._beside(context, n).repeated(n)
        pz = self.prior(_above(context), self._posteriors[-1])
        latents = [pz.sample(torch.Size((n,) if not pz.batch_shape else ()))]
        for part in reversed(self._conditionals):
            latents.insert(0, part(latents[0], _above(context)).sample())
        return self.likelihood(latents[0], context).sample(), tuple(latents)

    @torch.no_grad()
    def encode(self, x: Tensor, context: Context | None = None) -> Tensor:
        """The means of all levels, each given those of the levels before it: (B, *X) -> (B, D).
        Deterministic.
        """
        with evaluating(self):
            return self.code(self._means(*self._given(x, context)))

    def _means(self, x: Tensor, context: Context) -> list[Tensor]:
        """The means of z_1, .., z_L."""
        if not self.ways:
            means, value = [], x
            for i, part in enumerate(self._posteriors):
                value = mean(part(value, context if i == 0 else _above(context)))
                means.append(value)
            return means
        seen, context = self._seen(x, context), _above(context)
        says = [part(d, context) for part, d in zip(self._posteriors, seen, strict=True)]
        means = [mean(says.pop())]
        for of_x, part in zip(reversed(says), reversed(self._conditionals), strict=True):
            means.insert(0, mean(normal_product(of_x, part(means[0], context))))
        return means

    @torch.no_grad()
    def decode(self, z: Tensor, context: Context | None = None) -> Tensor:
        """The mean of p(x|z_1) at a code, (..., D) -> (..., *X), or at that of the top levels
        alone. Deterministic.

        Raises:
            ValueError: a code that is none of all levels, nor of the top ones.
        """
        z, context = self._placed(z), self._beside(context)
        with evaluating(self):
            latents = self._levels(z)
            for part in reversed(self._conditionals[: len(self.z_shapes) - len(latents)]):
                latents.insert(0, mean(part(latents[0], _above(context))))
            return mean(self.likelihood(latents[0], context))

    def _levels(self, z: Tensor) -> list[Tensor]:
        """A code as the latents of the levels that it holds, the top ones: (..., d) -> each (...,
        *Z).
        """
        sizes = [numel(shape) for shape in self.z_shapes]
        whole = [sum(sizes[i:]) for i in range(len(sizes))]
        if z.ndim < 1 or z.shape[-1] not in whole:
            raise ValueError(
                f"a code of these levels ends in {whole[0]} values, or in "
                f"{' or '.join(map(str, whole[1:]))} of the top ones alone, and this one is "
                f"{tuple(z.shape)}"
            )
        first = whole.index(z.shape[-1])
        pairs = zip(z.split(sizes[first:], -1), self.z_shapes[first:], strict=True)
        return [values.reshape(*values.shape[:-1], *shape) for values, shape in pairs]

    @torch.no_grad()
    def prior_scale(self, z: Tensor, context: Context | None = None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the entries of a code (D,): of each level given the one
        above it in the code.
        """
        context = _above(self._beside(context))
        with evaluating(self):
            # as of one example, which y may be told of
            latents = [values[None] for values in self._levels(self._placed(z))]
            ps = [
                part(above, context)
                for part, above in zip(self._conditionals, latents[1:], strict=True)
            ]
            ps.append(self.prior(context, self._posteriors[-1]))
            pairs = list(zip(ps, self.z_shapes, strict=True))
            means, scales = ([of(p).reshape(shape) for p, shape in pairs] for of in (mean, stddev))
            return self.code(means), self.code(scales)

    def down_to(self, z: Tensor, dimension: int) -> Tensor:
        """The code of the dimension's level and those above it: the levels below follow by their
        conditionals.
        """
        ends = accumulate(numel(shape) for shape in self.z_shapes)
        starts = [0, *ends]
        return z[..., max(start for start in starts if start <= dimension) :]

    @property
    def shown_x(self) -> Sequence[Part]:
        return (self.likelihood,) if self.ways else (self.likelihood, self._posteriors[0])

    def learn_units(
        self, x: Tensor, mask: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().learn_units(x, mask, dtype)
        if self.ways and not self.standardizer.is_fitted:
            self.standardizer.learn(x, mask, dtype)

    @torch.no_grad()
    def prepare(self, x: Tensor) -> None:
        """Each part takes what it is given where it stands: posteriors above the first, and a prior
        made of them, not x.
        """
        self.likelihood.prepare(x)
        with evaluating(self):
            for i, part in enumerate(self._posteriors):
                part.prepare(self._all_inputs(x, i))
            self.prior.prepare(self._all_inputs(x, -1))

    def _all_inputs(self, x: Tensor, level: int) -> Tensor:
        """What the posterior of a level is a condition of, for all examples."""
        pieces = x.split(EXAMPLES_AT_ONCE)
        return torch.cat([self._inputs(self._placed_x(rows))[level].cpu() for rows in pieces])

    def _inputs(self, x: Tensor) -> list[Tensor]:
        """What each posterior is a condition of."""
        return self._seen(x, Context()) if self.ways else [x, *self._means(x, Context())[:-1]]


def _along(q: Distribution, shape: torch.Size) -> Tensor:
    return q.rsample(shape)


def _without(q: Distribution, shape: torch.Size) -> Tensor:
    return q.sample(shape)


@contextmanager
def _unmoved(module: nn.Module) -> Iterator[None]:
    """Leave everything that runs along with the data, as batch statistics, as it was before the
    block.
    """
    before = [(value, value.clone()) for value in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for value, former in before:
                if not torch.equal(value, former):  # what has not moved may be needed by a gradient
                    value.copy_(former)


def _numbered(parts: Sequence[nn.Module]) -> nn.ModuleDict:
    """Parts by the number of their level."""
    return nn.ModuleDict({str(i): part for i, part in enumerate(parts, 1)})


def _above(context: Context) -> Context:
    """What is known above x, where nothing is missing."""
    return replace(context, mask=None)
