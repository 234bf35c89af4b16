"""Annealing: chains that walk from a start to p(x, z), or back.

Between a start p_0(z), the posterior q(z|x) or the prior, and the joint lies a path of densities

    log f_b(z) = (1 - b) log p_0(z) + b log p(x, z),   0 = b_0 < b_1 < ... < b_T = 1

A chain starts at z_0 ~ p_0 and moves from z_{t-1} to z_t by a transition that leaves f_{b_t}
invariant:

    log w = sum_t (b_t - b_{t-1}) [log p(x, z_{t-1}) - log p_0(z_{t-1})],   E[w] = p(x)

whatever T (Neal 2001). Run backwards from an exact sample of p(z|x), the same chain gives E[1/w] =
1 / p(x).

The transition is a Hamiltonian trajectory with a Metropolis test (Neal 2011, arXiv 1206.1901), in
units of the start's standard deviations. Its step size is adapted, for each example and
temperature, by chains of their own that are then thrown away; in the chains that count it is fixed,
since a transition that learns from its own past leaves nothing invariant.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from lowerbound.checks import check_density
from lowerbound.distributions import stddev
from lowerbound.draw import Draw
from lowerbound.roles import Context
from lowerbound.utils.memory import check_fits, values_held
from lowerbound.utils.messages import first_line, unknown

Start = Literal["posterior", "prior"]

# short trajectories at many temperatures do better than long ones at few (benchmarks/evidence.py)
LEAPFROG = 3
ROWS = 2**11  # chains times examples at a time: enough for fast matrix products
# numbers that p(x|z) of all chains may hold at a time; with what its gradient keeps, some 100 MiB
MAX_CHAIN_VALUES = 2**22
FEW_ACCEPTED = 0.4  # share of trajectories accepted below which chains hardly move
# share of trajectories to be accepted, the optimum of long ones (Neal 2011, arXiv 1206.1901)
ACCEPTED = 0.65
# how fast the logarithm of the step size follows the share accepted; the path changes over many
# steps
PACE = 0.1
# draws of a start that has no scale of its own: an error of 9 %, which the step size makes up for
SCALING = 64
JITTER = 0.3  # share by which the step of each trajectory varies at random, whatever the state
FIRST = 0.3  # first step size, in standard deviations of the start
# how much closer the temperatures lie at both ends of the path, where the density changes fastest
BEND = 4.0


class Joint(Protocol):
    """What annealing asks of a model: a draw, and the joint density at any z."""

    def __call__(self, x: Tensor, context: Context | None, samples: int) -> Draw:
        """A draw from q(z|x)."""

    def log_joint(
        self, x: Tensor, latents: tuple[Tensor, ...], context: Context | None = None
    ) -> Tensor:
        """Log p(x, z), (K, B)."""

    def sample_joint(
        self, n: int, context: Context | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Pairs from p(x, z)."""

    def log_prior(self, latents: tuple[Tensor, ...], context: Context | None = None) -> Tensor:
        """Log p(z), (K, B); asked of models with latents that depend on each other."""

    def log_posterior(
        self, x: Tensor, latents: tuple[Tensor, ...], context: Context | None = None
    ) -> Tensor:
        """Log q(z|x), (K, B); asked of models with latents that depend on each other."""


@dataclass(frozen=True)
class Point:
    """A state of every chain with the two log-densities there, (C, B), and their gradients, (C, B,
    D).
    """

    z: Tensor
    log_start: Tensor
    log_joint: Tensor
    start_gradient: Tensor
    joint_gradient: Tensor

    def log_density(self, b: float) -> Tensor:
        return (1 - b) * self.log_start + b * self.log_joint

    def gradient(self, b: float) -> Tensor:
        return (1 - b) * self.start_gradient + b * self.joint_gradient

    @property
    def log_ratio(self) -> Tensor:
        # summed in double precision, which not every accelerator has
        return (self.log_joint - self.log_start).cpu().double()

    def where(self, condition: Tensor, other: Point) -> Point:
        """The state itself where the condition (C, B) holds, the other elsewhere."""
        merged = [
            torch.where(condition if mine.ndim == 2 else condition[..., None], mine, theirs)
            for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)
        ]
        return Point(*merged)


class Path:
    """The two ends of the path for one batch of examples."""

    def __init__(self, model: Joint, x: Tensor, context: Context, plan: Plan) -> None:
        with torch.no_grad():
            draw = model(x, context, 1)
        check_density(draw.is_density)
        # where the model is, once, instead of at every step
        device, precision = draw.log_px.device, torch.promote_types(x.dtype, draw.log_px.dtype)
        self.model, self.x, self.context = model, x.to(device, precision), context.to(device)
        self.start = plan.start
        self.ends = [latent.q if plan.start == "posterior" else latent.p for latent in draw.latents]
        for latent, end in zip(draw.latents, self.ends, strict=True):
            _check_end(latent.p)
            _check_density(end, latent.z)
        self.shapes = [end.event_shape for end in self.ends]
        self.sizes = [shape.numel() for shape in self.shapes]
        # a state has five arrays, and a trajectory holds two states and a momentum
        needed = 4 * 12 * plan.chains * len(x) * sum(self.sizes)
        check_fits(needed, f"{plan.chains:,} chains for each example", "take fewer chains")
        self.is_chain = any(len(end.batch_shape) > 1 for end in self.ends)
        # the start of a latent depends on another's draw: its scale is taken from draws of all
        if self.is_chain:
            self.scale = self.flat(self._draws(SCALING)).std(0)
        else:
            scales = [
                stddev(end).expand(len(x), *end.event_shape).reshape(len(x), -1)
                for end in self.ends
            ]
            self.scale = torch.cat(scales, 1).detach()

    def sample(self, chains: int) -> Point:
        """States from the start."""
        return self.at(self.flat(self._draws(chains)))

    def _draws(self, chains: int) -> list[Tensor]:
        if self.is_chain and self.start == "posterior":
            with torch.no_grad():
                return [latent.z for latent in self.model(self.x, self.context, chains).latents]
        if self.is_chain:
            joint = [self.model.sample_joint(len(self.x), self.context)[1] for _ in range(chains)]
            return [torch.stack(latent) for latent in zip(*joint, strict=True)]
        draws = []
        for end in self.ends:
            shape = torch.Size((chains,) if end.batch_shape else (chains, len(self.x)))
            draws.append(end.rsample(shape) if end.has_rsample else end.sample(shape))
        return draws

    def _log_start(self, latents: tuple[Tensor, ...]) -> Tensor:
        if self.is_chain and self.start == "posterior":
            return self.model.log_posterior(self.x, latents, self.context)
        if self.is_chain:
            return self.model.log_prior(latents, self.context)
        return torch.stack(
            [end.log_prob(z) for end, z in zip(self.ends, latents, strict=True)]
        ).sum(0)

    def flat(self, latents: list[Tensor]) -> Tensor:
        """(C, B, *Z) of each latent -> (C, B, D)."""
        return torch.cat([z.reshape(*z.shape[:2], -1) for z in latents], -1)

    def at(self, z: Tensor) -> Point:
        """Densities and gradients at (C, B, D)."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            parts = z.split(self.sizes, -1)
            latents = tuple(
                part.unflatten(-1, shape) if shape else part[..., 0]
                for part, shape in zip(parts, self.shapes, strict=True)
            )
            log_start = self._log_start(latents)
            log_joint = self.model.log_joint(self.x, latents, self.context)
            (start_gradient,) = torch.autograd.grad(log_start.sum(), z)
            (joint_gradient,) = torch.autograd.grad(log_joint.sum(), z)
        return Point(
            z.detach(), log_start.detach(), log_joint.detach(), start_gradient, joint_gradient
        )


@dataclass(frozen=True)
class Plan:
    """How the path is walked."""

    chains: int
    temperatures: int
    leapfrog: int
    start: Start

    def __post_init__(self) -> None:
        for name in ("chains", "temperatures", "leapfrog"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.start not in get_args(Start):
            raise ValueError(unknown("start", self.start, get_args(Start)))

    def examples_at_a_time(self, model: Joint, x: Tensor, context: Context) -> int:
        """How many examples are worked on together, by what one of them costs."""
        with torch.no_grad():
            held = values_held(model(x[:1], context[:1], 1).px)
        return max(1, min(ROWS, MAX_CHAIN_VALUES // max(1, held)) // self.chains)

    @property
    def path(self) -> list[float]:
        """b_0 .. b_T, from 0 to 1, closer at both ends."""
        bent = torch.sigmoid(
            torch.linspace(-BEND, BEND, self.temperatures + 1, dtype=torch.float64)
        )
        path: list[float] = ((bent - bent[0]) / (bent[-1] - bent[0])).tolist()
        return path

    def adapt(self, path: Path, ticks: Ticks) -> list[Tensor]:
        """The step size at b_1 .. b_{T-1}, each (B,), found by chains that are thrown away."""
        point = path.sample(self.chains)
        log_step = torch.full_like(point.log_joint[0], math.log(FIRST))
        steps = []
        for b in self.path[1:-1]:
            point, accepted = self.transition(path, point, b, log_step.exp())
            log_step = log_step + PACE * (accepted - ACCEPTED)
            steps.append(log_step.exp())
            ticks.tick()
        return steps

    def forward(self, path: Path, steps: list[Tensor], ticks: Ticks) -> tuple[Tensor, Tensor]:
        """Log w of chains from the start to the joint, (C, B), and the share accepted, (B,)."""
        point = path.sample(self.chains)
        b = self.path
        log_w = b[1] * point.log_ratio
        total = torch.zeros_like(point.log_joint[0])
        for t, step in enumerate(steps, 1):
            point, accepted = self.transition(path, point, b[t], step)
            log_w = log_w + (b[t + 1] - b[t]) * point.log_ratio
            total = total + accepted
            ticks.tick()
        return log_w, self.share(total)

    def backward(
        self, path: Path, steps: list[Tensor], latents: tuple[Tensor, ...], ticks: Ticks
    ) -> tuple[Tensor, Tensor]:
        """Log 1/w of chains from an exact sample of p(z|x) to the start, (C, B), and the share
        accepted, (B,).
        """
        point = path.at(path.flat([z.expand(self.chains, *z.shape) for z in latents]))
        b = self.path
        log_w = torch.zeros_like(point.log_ratio)
        total = torch.zeros_like(point.log_joint[0])
        for t in range(len(steps), 0, -1):
            log_w = log_w - (b[t + 1] - b[t]) * point.log_ratio
            point, accepted = self.transition(path, point, b[t], steps[t - 1])
            total = total + accepted
            ticks.tick()
        return log_w - b[1] * point.log_ratio, self.share(total)

    def share(self, accepted: Tensor) -> Tensor:
        """Of all transitions; nan where there were none."""
        return (
            accepted / (self.temperatures - 1)
            if self.temperatures > 1
            else torch.full_like(accepted, math.nan)
        )

    def transition(self, path: Path, point: Point, b: float, step: Tensor) -> tuple[Point, Tensor]:
        """One Hamiltonian trajectory at b with steps (B,): the next states, and the share accepted,
        (B,).
        """
        # a trajectory that is half a period long turns back on its start: no step size is kept for
        # long
        step = step[:, None] * (1 - JITTER + 2 * JITTER * float(torch.rand(())))
        momentum = torch.randn_like(point.z)
        before = point.log_density(b) - 0.5 * momentum.square().sum(-1)
        new, p = point, momentum
        for _ in range(self.leapfrog):
            p = p + 0.5 * step * path.scale * new.gradient(b)
            new = path.at(new.z + step * path.scale * p)
            p = p + 0.5 * step * path.scale * new.gradient(b)
        change = new.log_density(b) - 0.5 * p.square().sum(-1) - before
        # a trajectory that ran away is rejected
        probability = change.exp().clamp(max=1).nan_to_num(0.0)
        accepted = torch.rand_like(probability) < probability
        return new.where(accepted, point), probability.mean(0)


class Ticks:
    """Counts transitions for whoever watches."""

    def __init__(self, total: int, on_progress: Callable[[int, int], None] | None) -> None:
        self.done, self.total, self.on_progress = 0, total, on_progress

    def tick(self) -> None:
        self.done += 1
        if self.on_progress:
            self.on_progress(self.done, self.total)


def _check_end(pz: Distribution) -> None:
    """Refuse latents that cannot be moved along gradients."""
    name = type(getattr(pz, "base_dist", pz)).__name__
    support = pz.support
    if support is not None and support.is_discrete:
        raise ValueError(
            f"annealing moves z along gradients, and the latent of p(z) = {name} is discrete; use "
            "the importance-weighted estimator, or enumerate it"
        )
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support not in (constraints.real, constraints.real_vector):
        raise ValueError(
            f"annealing moves z on the whole real line, and the latent of p(z) = {name} lies on "
            f"{support}; use the importance-weighted estimator"
        )


def _check_density(end: Distribution, z: Tensor) -> None:
    """Refuse a start whose density is known at its own draws alone, since chains move away from
    them.
    """
    try:
        end.log_prob(z.clone())  # the values of a draw, which are yet no draw
    except NotImplementedError as error:
        raise ValueError(
            f"annealing evaluates its start wherever chains move, and {first_line(error)}; use the "
            "importance-weighted estimator, or start at the prior (start='prior')"
        ) from None


def doubts(acceptance: Tensor) -> list[str]:
    """What a person must know of chains of which so many trajectories were accepted, (n,): nothing,
    or one line.
    """
    accepted = float(acceptance.mean())
    if not accepted < FEW_ACCEPTED:
        return []
    return [
        f"only {accepted:.0%} of the trajectories were accepted, so the chains hardly moved; take "
        "more temperatures"
    ]
